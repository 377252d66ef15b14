//! API servers behind a proxy: the kubeconfig's `proxy-url` and the environment's, with tinyproxy and microsocks. The operator
//! takes them too where it runs with a kubeconfig.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use mcp_auth_tests::one_machine::free_port;
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator};
use mcp_auth_tests::setting;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Printed, command};

const PASSWORD: &str = "pr0xy-password";

/// A running proxy, and what it says.
struct Proxy {
    port: u16,
    log: PathBuf,
    _child: Child,
}

impl Proxy {
    async fn http(folder: &Path) -> Self {
        let (port, log) = (free_port(), folder.join("tinyproxy.log"));
        let configuration = folder.join("tinyproxy.conf");
        let text = format!(
            "Listen 127.0.0.1\nPort {port}\nBasicAuth ada {PASSWORD}\nTimeout 60\nLogLevel Connect\nLogFile \"{}\"\n",
            log.display()
        );
        std::fs::write(&configuration, text).unwrap();
        let mut program = Command::new("tinyproxy");
        program
            .args(["-d", "-c"])
            .arg(configuration)
            .stdout(Stdio::null());
        Self::started(program, port, log).await
    }

    async fn socks(folder: &Path) -> Self {
        let (port, log) = (free_port(), folder.join("microsocks.log"));
        let mut program = Command::new(microsocks().await);
        let said = std::fs::File::create(&log).unwrap();
        program
            .args(["-i", "127.0.0.1", "-p", &port.to_string()])
            .stderr(said);
        Self::started(program, port, log).await
    }

    async fn started(mut program: Command, port: u16, log: PathBuf) -> Self {
        let child = program.kill_on_drop(true).spawn().unwrap();
        let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        until("the proxy to listen", listens, |listens| *listens).await;
        Self {
            port,
            log,
            _child: child,
        }
    }

    /// The lines of its log that name this.
    fn mentions(&self, name: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains(name)).count()
    }
}

/// The program, which is fetched where this machine has none. Nothing else of the tests needs it.
async fn microsocks() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/microsocks");
    let mut program = Command::new(script);
    program
        .env("MCPAUTH_TEST_ENGINE", "none")
        .stderr(Stdio::inherit());
    let printed = program.output().await.unwrap();
    assert!(printed.status.success(), "{script}: {}", printed.status);
    String::from_utf8(printed.stdout).unwrap().trim_end().to_owned()
}

/// The tests' own kubeconfig, with more of its cluster.
fn kubeconfig(folder: &TempDir, more: Value) -> PathBuf {
    let text = std::fs::read_to_string(setting("KUBECONFIG")).unwrap();
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    let cluster = config["clusters"][0]["cluster"].as_object_mut().unwrap();
    // Its path is relative to the file.
    let authority = PathBuf::from(setting("KUBECONFIG")).with_file_name("apiserver.crt");
    cluster.insert("certificate-authority".to_owned(), json!(authority));
    cluster.extend(more.as_object().unwrap().clone());
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn server() -> String {
    let text = std::fs::read_to_string(setting("KUBECONFIG")).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    server.strip_prefix("https://").unwrap().to_owned()
}

async fn status(kubeconfig: &Path, variables: &[(&str, &str)]) -> Printed {
    let mut command = command(&["status", "--all-namespaces", "--kubeconfig"]);
    for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.arg(kubeconfig).envs(variables.iter().copied());
    let output = command.output().await.unwrap();
    Printed {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test]
async fn a_cluster_is_reached_through_the_http_proxy_that_its_kubeconfig_names() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::http(folder.path()).await;
    let url = |user: &str| format!("http://{user}@127.0.0.1:{}", proxy.port);
    let by_proxy = kubeconfig(&folder, json!({"proxy-url": url(&format!("ada:{PASSWORD}"))}));
    // As kubectl: NO_PROXY is about the environment's proxy.
    let printed = status(&by_proxy, &[("NO_PROXY", "*")]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert!(
        proxy.mentions(&format!("CONNECT {}", server())) > 0,
        "the proxy was asked"
    );

    let with_wrong_password = kubeconfig(&folder, json!({"proxy-url": url("ada:wr0ng")}));
    let printed = status(&with_wrong_password, &[]).await;
    assert_ne!(printed.code, 0);
    let said = format!(
        "https://{} through the proxy http://127.0.0.1:{}",
        server(),
        proxy.port
    );
    assert!(printed.err.contains(&said), "{printed:?}");
    assert!(!printed.err.contains("wr0ng"), "{printed:?}");
}

#[tokio::test]
async fn a_cluster_is_reached_through_the_socks_proxy_that_its_kubeconfig_names() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::socks(folder.path()).await;
    let by_proxy = kubeconfig(
        &folder,
        json!({"proxy-url": format!("socks5://127.0.0.1:{}", proxy.port)}),
    );
    let printed = status(&by_proxy, &[]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    let (host, port) = server()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .unwrap();
    assert!(
        proxy.mentions(&format!("connected to {host}:{port}")) > 0,
        "the proxy was asked"
    );
}

#[tokio::test]
async fn the_environment_s_proxy_is_taken_unless_no_proxy_names_the_api_server() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::http(folder.path()).await;
    // Where the proxy is asked is what is looked at: there is no such host.
    let elsewhere = kubeconfig(&folder, json!({"server": "https://api.corp.invalid:6443"}));
    let variable = format!("http://ada:{PASSWORD}@127.0.0.1:{}", proxy.port);
    let through = [("HTTPS_PROXY", variable.as_str())];
    let printed = status(&elsewhere, &through).await;
    assert_ne!(printed.code, 0);
    assert_eq!(proxy.mentions("CONNECT api.corp.invalid:6443"), 1);
    assert!(
        printed.err.contains("through the proxy http://127.0.0.1:"),
        "{printed:?}"
    );
    assert!(!printed.err.contains(PASSWORD), "{printed:?}");

    let printed = status(&elsewhere, &[through[0], ("NO_PROXY", ".corp.invalid")]).await;
    assert_ne!(printed.code, 0);
    assert!(!printed.err.contains("proxy"), "{printed:?}");
    assert_eq!(
        proxy.mentions("CONNECT api.corp.invalid:6443"),
        1,
        "it was not asked again"
    );

    // As kubectl: an entry may have a port and a star, and one that is empty or names no host is skipped.
    for exceptions in ["*.corp.invalid:6443,", "a,,api.corp.invalid,/var/run/docker.sock"] {
        let printed = status(&elsewhere, &[through[0], ("NO_PROXY", exceptions)]).await;
        assert_ne!(printed.code, 0);
        assert!(!printed.err.contains("PROXY"), "{exceptions}: {printed:?}");
    }
    assert_eq!(
        proxy.mentions("CONNECT api.corp.invalid:6443"),
        1,
        "it was not asked again"
    );
    // On this machine neither counts.
    let here = kubeconfig(&folder, json!({}));
    let printed = status(&here, &[through[0], ("NO_PROXY", "localhost,127.0.0.1,")]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
}

#[tokio::test]
async fn an_operator_that_runs_with_a_kubeconfig_reaches_the_api_server_through_its_proxy() {
    const NAMESPACE: &str = "operator-by-proxy";
    let _world = World::new(NAMESPACE, true).await;
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::http(folder.path()).await;
    let url = format!("http://ada:{PASSWORD}@127.0.0.1:{}", proxy.port);
    let by_proxy = kubeconfig(&folder, json!({"proxy-url": url}));
    let operator = Operator {
        namespace: NAMESPACE.into(),
        watched_namespace: NAMESPACE.into(),
        lease: "by-proxy".into(),
        certificate_secret: "by-proxy-tls".into(),
        url: None,
        program: None,
        arguments: vec![ANY_ADDRESS.into()],
    };
    let replica = operator
        .start_with("by-proxy", None, None, |command| {
            command.args(["--webhook-configuration", "of-a-test-that-has-none"]);
            command.env("KUBECONFIG", by_proxy);
        })
        .await;
    replica.until_leads().await;
    assert!(
        proxy.mentions(&format!("CONNECT {}", server())) > 0,
        "the proxy was asked"
    );
}
