use super::*;

fn invocation_of(yaml: &str) -> Invocation {
    let container: Container = serde_saphyr::from_str(&format!("{{name: c, {yaml}}}")).unwrap();
    invocation(&container, &Environment::from_container(&container))
}

fn role_of(yaml: &str) -> Role {
    invocation_of(yaml).role
}

/// LiteLLM's words as one text, `?` for hidden ones.
fn words_of(yaml: &str) -> String {
    let words = invocation_of(yaml).words.into_iter();
    let words: Vec<String> = words.map(|word| word.unwrap_or_else(|| "?".to_owned())).collect();
    words.join(" ")
}

#[test]
fn finds_litellm_however_it_is_started() {
    for yaml in [
        "command: [litellm, --config, /c.yaml]",
        "command: [/usr/local/bin/litellm], args: [--port, '1']",
        "command: [docker/prod_entrypoint.sh]",
        "command: [ddtrace-run, litellm]",
        "command: [tini, -g, --, litellm]",
        "command: [newrelic-admin, run-program, litellm]",
        "command: [env, A=b, litellm]",
        "command: [uv, run, --frozen, --no-sync, litellm]",
        "command: [poetry, run, litellm]",
        "command: [/vault/vault-env], args: [litellm, --port, '1']",
        "command: [doppler, run, --, litellm]",
        "command: [/some/new-wrapper, --verbose, --, litellm]",
        "command: [vault-env, tini, --, ddtrace-run, litellm]",
        "command: [python, /app/litellm/proxy/proxy_cli.py]",
        "command: [python, -c, 'from litellm.proxy.proxy_cli import run_server; run_server()']",
        "command: [sh, -c, 'exec litellm']",
        "args: [bash, -ec, 'cd /app && exec litellm']",
        "command: [/bin/sh, -c], args: ['. /vault/secrets/env && litellm']",
    ] {
        assert_eq!(role_of(yaml), Role::LiteLlm(Start::CommandLine), "{yaml}");
    }
    for yaml in [
        "command: [python3.13, -u, -m, gateway.launch]",
        "command: [python, -W, ignore, -X, dev, -Wdefault, -m, gateway.launch]",
        "command: [python, -X, $(A), -m, gateway.launch], env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
        "args: [--workers, '2'], env: [{name: LITELLM_COMPONENT, value: gateway}]",
        "command: [sh, -c, 'exec python -m gateway.launch']",
    ] {
        assert_eq!(role_of(yaml), Role::LiteLlm(Start::Launcher), "{yaml}");
    }
    for yaml in [
        "command: [uvicorn, 'backend.main:app']",
        "command: [component_entrypoint.sh, uvicorn, 'backend.main:app']",
        "args: [python3, -m, uvicorn, 'litellm.proxy.proxy_server:app']",
        "command: [granian, --interface, asgi, 'litellm.proxy.proxy_server:app']",
    ] {
        assert_eq!(role_of(yaml), Role::LiteLlm(Start::Server), "{yaml}");
    }
    let gunicorn = "command: [gunicorn, 'litellm.proxy.proxy_server:app', --bind, '0.0.0.0:4000']";
    assert_eq!(role_of(gunicorn), Role::LiteLlm(Start::BindServer));
    for yaml in [
        "args: [proxy]",
        "args: [gateway, --host, 0.0.0.0]",
        "command: [/app/docker-entrypoint.sh, backend]",
    ] {
        assert!(matches!(role_of(yaml), Role::Named(_)), "{yaml}");
    }
    for yaml in [
        "image: i",
        "args: [--config, /c.yaml]",
        "command: [docker-entrypoint.sh], args: [--port, '1']",
    ] {
        assert_eq!(role_of(yaml), Role::Entrypoint, "{yaml}");
    }
}

#[test]
fn never_takes_other_components_for_the_proxy() {
    for yaml in [
        "args: [ui]",
        "args: [migrations]",
        "args: [metrics, --port, '4001']",
        "args: [collector]",
        "args: [--admin-agent]",
        "args: [proxy, sidecar, --domain, d]",
        "command: [python, -m, litellm.proxy.collector]",
        "command: [python, litellm/proxy/prisma_migration.py]",
        "command: [python, -c, 'import litellm']",
        "command: [uvicorn, 'other:app']",
        "command: [gunicorn, 'other:app']",
        "args: [backend], env: [{name: LITELLM_JOB_ROLE, value: worker}]",
        "env: [{name: LITELLM_COMPONENT, value: ui}]",
    ] {
        assert_eq!(role_of(yaml), Role::Other, "{yaml}");
    }
}

#[test]
fn a_script_that_only_mentions_litellm_is_not_litellm() {
    for script in [
        "curl http://litellm:4000/health",
        "python litellm/proxy/prisma_migration.py",
        "until nc -z litellm 4000; do echo waiting for litellm ; sleep 1; done; exec node server.js",
        "sleep 1 # litellm",
        "echo 'a; litellm'",
    ] {
        let yaml = format!("command: [sh, -c, \"{script}\"]");
        assert_eq!(role_of(&yaml), Role::Shell, "{script}");
    }
}

#[test]
fn programs_that_are_not_known_may_be_litellm() {
    for yaml in [
        "command: [/start]",
        "command: [tini, --]",
        "args: [$(ROLE)]",
        "command: [python, /app/main.py]",
        "command: [python, -c, 'import uvicorn; uvicorn.run(\"litellm.proxy.proxy_server:app\")']",
        "command: [uv, pip, install, litellm]",
    ] {
        assert_eq!(role_of(yaml), Role::Program, "{yaml}");
    }
    assert_eq!(role_of("command: [bash, /start.sh]"), Role::Shell);
}

#[test]
fn litellm_gets_the_words_behind_wrappers_and_in_scripts() {
    for (yaml, expected) in [
        (
            "command: [doppler, run, --config, prd, --, litellm], args: [--port, '1']",
            "litellm --port 1",
        ),
        ("args: [proxy, --port, '1']", "proxy --port 1"),
        (
            "command: [sh, -c], args: ['source /x && litellm --config /c.yaml --key $(cat /k)']",
            "litellm --config /c.yaml --key ?",
        ),
        (
            "command: [sh, -c, 'exec litellm \"$@\"', litellm], args: [--port, '1']",
            "litellm --port 1",
        ),
    ] {
        assert_eq!(words_of(yaml), expected, "{yaml}");
    }
}

#[test]
fn added_arguments_go_where_they_reach_litellm() {
    let place = |yaml: &str| invocation_of(yaml).arguments;
    assert_eq!(place("command: [uv, run, litellm]"), ArgumentsPlace::Appended);
    let passing = "command: [bash, -c, 'export A=$(cat /a); exec litellm \"$@\"', --], args: [--port, '1']";
    assert_eq!(place(passing), ArgumentsPlace::Appended);
    // Without a name for the script the first argument would be that.
    let nameless = "command: [bash, -c, 'exec litellm \"$@\"']";
    assert!(matches!(place(nameless), ArgumentsPlace::InScript(_)));
    assert_eq!(
        place("command: [sh, -o, pipefail, -c], args: ['a; litellm --x | tee /log']"),
        ArgumentsPlace::InScript(ScriptPlace {
            in_command: false,
            index: 0,
            at: 14
        })
    );
    let several = "command: [sh, -c, 'if a; then litellm --x; else litellm; fi']";
    assert_eq!(place(several), ArgumentsPlace::Unreachable);
}
