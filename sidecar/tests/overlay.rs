//! Golden files of the overlay: each folder in `tests/overlay` is a configuration, `expected.snap` beside it
//! what becomes of it. A `routes.json` beside it is taken in place of the usual one. A new folder needs no new code; `INSTA_UPDATE=always cargo test` writes what it
//! became, to be read before it is committed. The same folders are then read with PyYAML, which has the last
//! word.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mcp_auth_protocol::sync::Route;
use mcp_auth_sidecar::control::litellm_config::static_headers::StaticHeaders;
use mcp_auth_sidecar::control::litellm_config::tag_resolution::resolve_tag;
use mcp_auth_sidecar::control::litellm_config::{Input, Overlay, render};
use mcp_auth_sidecar::control::outbound_secret::OutboundSecret;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/overlay");
const OUTBOUND: &str = "127.0.0.1:16481";
const SECRET: &str = "dGhlIHNlY3JldCBvZiB0ZXN0cywgbm90IGZvciBwb2Q";

struct Case {
    name: String,
    folder: PathBuf,
    original: Option<PathBuf>,
}

#[test]
fn becomes_what_is_expected() {
    for case in cases() {
        let overlay = render_case(&case, Path::new("/overlay/overlay.yaml"));
        let mut text = String::new();
        for (path, content) in &overlay.files {
            text.push_str(&format!("# {}\n{content}", path.display()));
        }
        for problem in &overlay.problems {
            text.push_str(&format!("# problem {}: {}\n", problem.reason, problem.message));
        }
        for notice in &overlay.notices {
            text.push_str(&format!("# notice {}: {}\n", notice.reason, notice.message));
        }
        insta::with_settings!({
            snapshot_path => &case.folder,
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            let folder = case.folder.display().to_string();
            insta::assert_snapshot!("expected", text.replace(&folder, "FOLDER"));
        });
    }
}

/// Of managed servers alone, whoever names them.
#[test]
fn access_groups_of_managed_servers_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("config.yaml");
    let config = "mcp_servers:\n  tools: {url: 'https://a.example.com', access_groups: [staff, 'our guests', 7]}\n  \
                  other: {url: 'https://b.example.com', access_groups: [others]}\n  \
                  odd: {url: 'https://c.example.com', access_groups: none}\n";
    fs::write(&original, config).unwrap();
    let routes = r#"[
        {"resource": "tools", "server": "tools", "url": "https://a.example.com/mcp", "transport": "StreamableHttp"},
        {"resource": "odd", "server": "odd", "url": "https://c.example.com/mcp", "transport": "StreamableHttp"},
        {"resource": "new", "server": "new", "url": "https://d.example.com/mcp", "transport": "StreamableHttp",
          "litellm": {"accessGroups": ["of-the-resource"]}}
    ]"#;
    let routes: Vec<Route> = serde_json::from_str(routes).unwrap();
    let overlay = render(&Input {
        original: Some(&original),
        overlay: Path::new("/overlay/overlay.yaml"),
        routes: &routes,
        outbound: OUTBOUND.parse().unwrap(),
        outbound_secret: &OutboundSecret::parse(SECRET).unwrap(),
        inbound: true,
        auth_blocks: false,
        static_headers: &static_headers(),
        tool_prefix_separator: "-",
    });
    assert_eq!(overlay.problems, []);
    let groups: Vec<_> = overlay.access_groups.iter().map(String::as_str).collect();
    assert_eq!(groups, ["of-the-resource", "our guests", "staff"]);
}

#[test]
fn means_the_same_to_pyyaml() {
    let folder = tempfile::tempdir().unwrap();
    let mut described = Vec::new();
    for case in cases() {
        let path = folder.path().join(&case.name).join("overlay.yaml");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let overlay = render_case(&case, &path);
        overlay.write().unwrap();
        described.push(serde_json::json!({
            "name": case.name,
            "original": case.original,
            "overlay": path,
            "usable": !overlay.problems.iter().any(|problem| problem.reason.starts_with("Config")),
            "outbound": OUTBOUND,
            "secret": SECRET,
            "routes": routes(&case.folder),
            "managed": overlay.servers.keys().collect::<Vec<_>>(),
        }));
    }
    check(&serde_json::json!({"cases": described, "scalars": []}));
}

#[test]
fn takes_plain_scalars_for_what_pyyaml_takes_them_for() {
    let mut runner = TestRunner::deterministic();
    let patterns = [
        "[-+]?[0-9_.:]{1,8}([eE][-+]?[0-9]{0,3})?",
        "[-+]?0[bxo]?[0-9a-fA-F_]{0,5}",
        "[-+]?[0-9_]{1,3}(:[0-9]{1,2}){1,3}(\\.[0-9_]{0,2})?",
        "[0-9]{3,5}-[0-9]{1,2}-[0-9]{1,2}\
         (([Tt]|[ \t]{1,2})[0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\\.[0-9]{0,2})?\
         ( ?(Z|[-+][0-9]{1,2}(:[0-9]{1,2})?))?)?",
        "(yes|Yes|yES|no|NO|on|On|off|OFF|true|TRUE|tRUE|False|y|n|\
         null|Null|nULL|~|<<|<|=|==|nan|\\.nan|\\.NaN|[-+]?\\.(inf|Inf|INF|iNF))",
        "[-+.:_~=<0-9a-zA-Z]{0,4}",
    ];
    let mut scalars = Vec::new();
    for pattern in patterns {
        let strategy = proptest::string::string_regex(pattern).unwrap();
        for _ in 0..2000 {
            let text = strategy.new_tree(&mut runner).unwrap().current();
            scalars.push(serde_json::json!({"text": text, "kind": resolve_tag(&text).as_str()}));
        }
    }
    check(&serde_json::json!({"cases": [], "scalars": scalars}));
}

#[test]
fn text_of_any_kind_comes_back_from_pyyaml_as_it_was() {
    let mut runner = TestRunner::deterministic();
    let folder = tempfile::tempdir().unwrap();
    let text = proptest::string::string_regex("[ -~\\n\\t\u{e9}\u{2028}\u{feff}\u{1f600}]{0,20}").unwrap();
    let plain = proptest::string::string_regex(concat!(
        "[-+.:_~=<0-9a-zA-Z/@é]{1,6}",
        "( [-+.:_~=<0-9a-zA-Z/@é]{1,3})?"
    ))
    .unwrap();
    let mut described = Vec::new();
    for number in 0..100 {
        let mut original = String::from("mcp_servers:\n  other:\n");
        for _ in 0..10 {
            let (key, value) = (
                text.new_tree(&mut runner).unwrap().current(),
                text.new_tree(&mut runner).unwrap(),
            );
            let quoted = |text: &str| {
                format!(
                    "'{}'",
                    text.replace('\'', "''")
                        .replace(['\n', '\t', '\u{2028}', '\u{feff}'], " ")
                )
            };
            original.push_str(&format!(
                "    ? {}\n    : {}\n",
                quoted(&key),
                quoted(&value.current())
            ));
            let plain = plain.new_tree(&mut runner).unwrap().current();
            original.push_str(&format!("    ? {}\n    : {}\n", quoted(&plain), guarded(&plain)));
        }
        let config = folder.path().join(format!("config-{number}.yaml"));
        let path = folder.path().join(format!("overlay-{number}.yaml"));
        fs::write(&config, &original).unwrap();
        let overlay = render(&Input {
            original: Some(&config),
            overlay: &path,
            routes: &[],
            outbound: OUTBOUND.parse().unwrap(),
            outbound_secret: &OutboundSecret::parse(SECRET).unwrap(),
            inbound: true,
            auth_blocks: false,
            static_headers: &static_headers(),
            tool_prefix_separator: "-",
        });
        overlay.write().unwrap();
        assert_eq!(overlay.problems, [], "{original}");
        described.push(serde_json::json!({
            "name": format!("text {number}"), "original": config, "overlay": path,
            "usable": true, "outbound": OUTBOUND, "secret": SECRET,
            "routes": [], "managed": [],
        }));
    }
    check(&serde_json::json!({"cases": described, "scalars": []}));
}

/// A plain scalar if it can be one in a block mapping, and else a quoted one.
fn guarded(text: &str) -> String {
    let first = text.chars().next().unwrap_or(' ');
    // The safe loader takes these two as keys only.
    let plain = !["=", "<<"].contains(&text)
        && !"-:@".contains(first)
        && !text.contains(": ")
        && !text.ends_with(':')
        && !text.starts_with("- ");
    if plain {
        text.to_owned()
    } else {
        format!("\"{text}\"")
    }
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|folder| Case {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            original: Some(folder.join("config.yaml")).filter(|path| path.exists()),
            folder,
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() > 20, "the folders are not found");
    cases
}

fn routes(case: &Path) -> Vec<Route> {
    let own = fs::read(case.join("routes.json"));
    let routes = own.unwrap_or_else(|_| fs::read(Path::new(FOLDER).join("routes.json")).unwrap());
    serde_json::from_slice(&routes).unwrap()
}

fn render_case(case: &Case, overlay: &Path) -> Overlay {
    let outbound: SocketAddr = OUTBOUND.parse().unwrap();
    render(&Input {
        original: case.original.as_deref(),
        overlay,
        routes: &routes(&case.folder),
        outbound,
        outbound_secret: &OutboundSecret::parse(SECRET).unwrap(),
        inbound: true,
        auth_blocks: false,
        static_headers: &static_headers(),
        tool_prefix_separator: "-",
    })
}

/// With names that are the same each time.
fn static_headers() -> StaticHeaders {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("static-headers"), "0".repeat(32)).unwrap();
    StaticHeaders::resume(folder.path())
}

/// Runs `check.py`.
fn check(job: &serde_json::Value) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/yaml/check.py");
    let mut child = Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(job.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "PyYAML reads something else:\n{said}");
}

/// A Python that has PyYAML: the machine's, or a virtual environment under `target`.
fn python() -> PathBuf {
    let has_yaml = |python: &Path| {
        let import = Command::new(python)
            .args(["-c", "import yaml"])
            .stderr(Stdio::null())
            .status();
        import.is_ok_and(|status| status.success())
    };
    if has_yaml(Path::new("python3")) {
        return "python3".into();
    }
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = MAKING.lock().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pyyaml");
    let python = folder.join("bin/python3");
    if !has_yaml(&python) {
        let made = Command::new("python3")
            .arg("-m")
            .arg("venv")
            .arg(&folder)
            .status();
        let installed = Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "pyyaml"])
            .status();
        assert!(
            has_yaml(&python),
            "this test needs Python 3 with PyYAML, and none could be made ({made:?}, {installed:?}); \
             install it, for example with `apt-get install python3-yaml` or `pip install pyyaml`"
        );
    }
    python
}
