use super::*;

fn command(words: &[&str], variables: &[(&str, &str)]) -> Result<LitellmCommand, String> {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    LitellmCommand::read(words.iter().map(OsString::from).collect(), &variables.collect())
        .map_err(|error| error.to_string())
}

#[test]
fn address_and_configuration_are_those_that_litellm_would_take() {
    let stated = command(
        &[
            "litellm",
            "--config",
            "/c.yaml",
            "--port=4100",
            "--host",
            "127.0.0.1",
        ],
        &[],
    )
    .unwrap();
    assert_eq!(stated.listen.to_string(), "127.0.0.1:4100");
    assert_eq!(stated.config.as_deref(), Some(Path::new("/c.yaml")));
    let variables = [
        ("PORT", "4200"),
        ("HOST", "localhost"),
        ("CONFIG_FILE_PATH", "/v.yaml"),
    ];
    let by_variables = command(&["uv", "run", "litellm", "-c", "/c.yaml"], &variables).unwrap();
    assert_eq!(by_variables.listen.to_string(), "127.0.0.1:4200");
    assert_eq!(by_variables.config.as_deref(), Some(Path::new("/v.yaml")));
    assert_eq!(
        command(&["litellm", "--port", "4300"], &variables)
            .unwrap()
            .listen
            .port(),
        4300
    );
    assert_eq!(
        command(&["litellm"], &[]).unwrap().listen.to_string(),
        "0.0.0.0:4000"
    );
}

#[test]
fn what_others_call_c_is_not_litellms_configuration() {
    for words in [
        &["sh", "-c", "exec litellm"][..],
        &["uv", "tool", "run", "-c", "constraints.txt", "litellm"],
        &["python", "-c", "import litellm; litellm.run_server()"],
    ] {
        assert_eq!(command(words, &[]).unwrap().config, None, "{words:?}");
    }
    let behind = [
        "uv",
        "tool",
        "run",
        "-c",
        "constraints.txt",
        "litellm",
        "-c",
        "/c.yaml",
    ];
    assert_eq!(
        command(&behind, &[]).unwrap().config.as_deref(),
        Some(Path::new("/c.yaml"))
    );
    let script = ["sh", "-c", "exec litellm --config config.yaml"];
    let message = command(&script, &[]).unwrap_err();
    assert!(message.contains("by the variable CONFIG_FILE_PATH"), "{message}");
    let named = command(&script, &[("CONFIG_FILE_PATH", "/v.yaml")]).unwrap();
    assert_eq!(named.config.as_deref(), Some(Path::new("/v.yaml")));
}

#[test]
fn an_address_that_cannot_be_is_named() {
    assert!(
        command(&["litellm", "--port", "many"], &[])
            .unwrap_err()
            .contains("\"many\"")
    );
    assert!(
        command(&["litellm", "--port", "0"], &[])
            .unwrap_err()
            .contains("\"0\"")
    );
    assert!(
        command(&["litellm", "--host", "tools.example.com"], &[])
            .unwrap_err()
            .contains("--host")
    );
}

#[test]
fn what_injection_refuses_on_kubernetes_is_refused_by_name() {
    let app = "litellm.proxy.proxy_server:app";
    for (words, variables, expected) in [
        (
            &["litellm"][..],
            &[("LITELLM_CONFIG_BUCKET_NAME", "")][..],
            "from a bucket",
        ),
        (
            &["/venv/bin/gunicorn", app, "--bind", "0.0.0.0:4000"],
            &[],
            "litellm --run_gunicorn",
        ),
        (
            &["python", "-m", "hypercorn", app],
            &[],
            "litellm --run_hypercorn",
        ),
        (
            &["litellm"],
            &[("SSL_KEYFILE_PATH", "/key")],
            "the variable SSL_KEYFILE_PATH makes",
        ),
        (
            &["litellm", "--ssl_certfile_path=/c"],
            &[],
            "the option --ssl_certfile_path makes",
        ),
        (
            &["uvicorn", "--ssl-keyfile", "/key", app],
            &[],
            "the option --ssl-keyfile makes",
        ),
        (
            &["uvicorn", app, "--uds", "/run/litellm"],
            &[],
            "the option --uds has LiteLLM listen on a socket of its own",
        ),
        (
            &["python", "-m", "uvicorn", "--fd=3", app],
            &[],
            "the option --fd has",
        ),
        (
            &["granian", "--interface", "asgi", app, "--uds=/run/litellm"],
            &[],
            "the option --uds has",
        ),
        (
            &["uvicorn", app],
            &[("UVICORN_UDS", "/run/litellm")],
            "the variable UVICORN_UDS has",
        ),
        (
            &["uvicorn", app],
            &[("UVICORN_FD", "3")],
            "the variable UVICORN_FD has",
        ),
        (
            &["granian", app],
            &[("GRANIAN_UDS", "/run/litellm")],
            "the variable GRANIAN_UDS has",
        ),
        (
            &["uvicorn", app, "--env-file", ".env"],
            &[],
            "the file of --env-file may name LiteLLM's configuration, unseen",
        ),
        (
            &["uv", "run", "--env-file=.env", "litellm"],
            &[],
            "name it by --config",
        ),
    ] {
        let message = command(words, variables).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    for words in [&["litellm", "--run_gunicorn"][..], &["gunicorn", "other:app"]] {
        assert_eq!(
            command(words, &[("SSL_KEYFILE_PATH", "")]).map(|_| ()),
            Ok(()),
            "{words:?}"
        );
    }
}

#[test]
fn what_does_not_reach_litellm_or_hides_nothing_is_no_reason_to_refuse() {
    let app = "litellm.proxy.proxy_server:app";
    for (words, variables) in [
        (
            &["litellm"][..],
            &[("UVICORN_UDS", "/run/x"), ("GRANIAN_UDS", "/run/x")][..],
        ),
        (
            &["uvicorn", app],
            &[("GRANIAN_UDS", "/run/x"), ("UVICORN_UDS", "")],
        ),
        (
            &[
                "uv",
                "run",
                "--env-file",
                ".env",
                "litellm",
                "--config",
                "/c.yaml",
            ],
            &[],
        ),
        (
            &["uvicorn", app, "--env-file", ".env"],
            &[("CONFIG_FILE_PATH", "/c.yaml")],
        ),
    ] {
        assert_eq!(command(words, variables).map(|_| ()), Ok(()), "{words:?}");
    }
    let own_socket = LitellmCommand::read(
        ["uvicorn", app, "--uds", "/run/x"].map(OsString::from).to_vec(),
        &Variables::default(),
    );
    assert_eq!(own_socket.map_err(|error| error.code()), Err(64));
}

#[test]
fn litellm_is_moved_to_loopback_however_it_is_started() {
    for words in [
        &["litellm", "--port", "4000"][..],
        &["uv", "run", "litellm"],
        &["/venv/bin/litellm"],
        &["python", "-m", "litellm.proxy.proxy_cli"],
        &["uvicorn", "litellm.proxy.proxy_server:app"],
    ] {
        let launch = command(words, &[]).unwrap().launch(
            16480,
            Path::new("/w.yaml"),
            &Variables::default(),
            &BTreeSet::new(),
        );
        let tail: Vec<_> = launch.words[words.len()..]
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        assert_eq!(tail, ["--host", "127.0.0.1", "--port", "16480"], "{words:?}");
    }
    let script = command(&["sh", "-c", "exec litellm"], &[]).unwrap();
    assert!(!script.takes_options());
    let launch = script.launch(
        16480,
        Path::new("/w.yaml"),
        &[(
            "MCPAUTH_OTLP_HEADERS".to_owned(),
            "authorization=s3cret".to_owned(),
        )]
        .into_iter()
        .collect(),
        &["SECRET".to_owned()].into(),
    );
    assert_eq!(launch.words.len(), 3, "the script would take them for its own");
    assert!(launch.set.contains(&("PORT".to_owned(), "16480".into())));
    assert_eq!(launch.remove, ["MCPAUTH_OTLP_HEADERS", "SECRET"]);
}

#[test]
fn a_proxy_is_not_asked_for_loopback() {
    let variables = [("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", "corp")];
    let variables: Variables = variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    let launch = command(&["litellm"], &[])
        .unwrap()
        .launch(1, Path::new("/w"), &variables, &BTreeSet::new());
    assert!(
        launch
            .set
            .contains(&("no_proxy".to_owned(), "corp,127.0.0.1,localhost".into()))
    );
}

#[test]
fn a_program_is_looked_for_as_a_shell_does() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data"), "").unwrap();
    let path = Some(folder.path().as_os_str());
    let code = |name: &str| find_program(OsStr::new(name), path).map_err(|error| error.code());
    assert_eq!(code("litellm"), Err(127));
    assert_eq!(code("data"), Err(126));
    assert_eq!(code("/bin/sh"), Ok(()));
}
