//! A LiteLLM that is changed, does not start, or does not do what it should.

use std::fs;
use std::path::Path;

use crate::set_up::{SetUp, write};

#[test]
fn a_changed_file_of_litellm_is_named() {
    let set_up = SetUp::new();
    write(&set_up.path("packages/litellm/__init__.py"), "patched = True\n");
    set_up.breaks(
        &[],
        &[1],
        &["1 files of LiteLLM 1.110.2 are not those of its wheel, such as litellm/__init__.py"],
    );
}

#[test]
fn a_litellm_that_ends_at_its_start_is_told() {
    let set_up = SetUp::new();
    let output = set_up.check(&[], &[("ENDS_WITH", "3")]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for expected in [
        "✓ OAuth2 works: 1 of 1 servers",
        "✗ The configuration loads: LiteLLM ended with exit status: 3 before it was ready; see its output: \
         --litellm-log FILE",
        "✗ Headers are built and arrive: not known, since LiteLLM does not run",
        "✗ tools: not known, since LiteLLM does not run",
    ] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn a_litellm_that_does_not_get_ready_is_given_up() {
    let set_up = SetUp::new();
    let output = set_up.check(&["--timeout-seconds", "1"], &[("READINESS", "503")]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("LiteLLM is not ready after 1 s"), "{text}");
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn a_litellm_that_loses_the_users_context_is_told() {
    let set_up = SetUp::new();
    set_up.breaks(
        &[("LOSES", "context")],
        &[4],
        &["the tool call arrives without the user's allowed cookie"],
    );
}

#[test]
fn what_python_runs_at_its_start_and_speaks_of_litellm_is_named() {
    let set_up = SetUp::new();
    write(
        &set_up.path("packages/sitecustomize.py"),
        "# patches litellm.proxy\n",
    );
    set_up.breaks(
        &[],
        &[1],
        &["sitecustomize.py at each start, which speaks of litellm and may patch it"],
    );
    fs::remove_file(set_up.path("packages/sitecustomize.py")).unwrap();

    let base = set_up.path("user").to_str().unwrap().to_owned();
    let variables = [("PYTHONUSERBASE", &*base)];
    let site = std::process::Command::new("python3")
        .args(["-c", "import site; print(site.getusersitepackages())"])
        .envs(variables)
        .output()
        .unwrap();
    let site = String::from_utf8(site.stdout).unwrap();
    write(&set_up.path("packages/innocent.py"), "");
    write(
        &set_up.path("packages/patch_of_ours.py"),
        "import sys  # for litellm\n",
    );
    write(
        &Path::new(site.trim()).join("other.pth"),
        "# litellm\nimport innocent\n",
    );
    let output = set_up.check(&[], &variables);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("✓ LiteLLM is unmodified: "), "{text}");
    write(
        &set_up.path("packages/hooks/of_ours.py"),
        "hook = 1  # for litellm\n",
    );
    let pth = Path::new(site.trim()).join("patch.pth");
    for (line, file) in [
        ("import sys; import patch_of_ours\n", "patch_of_ours.py"),
        ("import os, patch_of_ours\n", "patch_of_ours.py"),
        ("import os; from patch_of_ours import sys\n", "patch_of_ours.py"),
        ("import os; from hooks.of_ours import hook\n", "hooks/of_ours.py"),
        ("import os; from hooks import of_ours\n", "hooks/of_ours.py"),
    ] {
        write(&pth, line);
        let expected = format!("{file} at each start");
        set_up.breaks(&variables, &[1], &[&expected]);
    }

    // Python does not look into the user's folder then.
    let output = set_up.check(&[], &[variables[0], ("PYTHONNOUSERSITE", "1")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("✓ LiteLLM is unmodified: "), "{text}");
}

#[test]
fn a_litellm_that_hides_a_servers_tools_is_told() {
    let set_up = SetUp::new();
    set_up.breaks(
        &[("HIDES", "tools")],
        &[5],
        &["✗ tools: it takes the token, and LiteLLM lists none of its tools"],
    );
}
