//! What is outside of the namespace: the authorization server of all tests with a client of this test's own, an MCP server
//! by https, and tinyproxy.

use std::path::{Path, PathBuf};

use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::replica::free_address;
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::{oauth, seen, setting};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

#[derive(Debug, Deserialize, Serialize)]
pub struct Outside {
    pub folder: PathBuf,
    pub client: String,
    pub client_secret: String,
    pub mcp_url: String,
    pub proxy_url: String,
    pub proxy_password: String,
    api_server_port: u16,
}

impl Outside {
    /// With the processes, which end when they are dropped.
    pub async fn start(client: &str) -> (Self, [Child; 2]) {
        // Another test of the process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = PathBuf::from(setting("MCPAUTH_TEST_WORK")).join(format!("{client}-outside"));
        std::fs::create_dir_all(&folder).unwrap();
        let (mcp, proxy) = (free_address().await, free_address().await);
        let outside = Self {
            client: client.to_owned(),
            client_secret: format!("s3cret-of-{client}"),
            mcp_url: format!("https://{mcp}/mcp"),
            proxy_url: format!("http://{proxy}"),
            proxy_password: format!("pr0xy-password-of-{client}"),
            api_server_port: api_server_port(),
            folder,
        };
        let registration = Registration {
            resource: outside.mcp_url.clone(),
            ..Registration::new(client, Method::SecretBasic(outside.client_secret.clone()))
        };
        oauth::register(&registration).await;
        let processes = [outside.start_mcp_server(), outside.start_proxy()];
        for address in [mcp, proxy] {
            let listens = async || TcpStream::connect(&address).await.is_ok();
            until("what is outside to listen", listens, |listens| *listens).await;
        }
        (outside, processes)
    }

    fn start_mcp_server(&self) -> Child {
        let authority = PathBuf::from(setting("MCPAUTH_TEST_AUTHORITY"));
        let own = self.mcp_url.strip_suffix("/mcp").unwrap();
        let port = port(&self.mcp_url).to_string();
        Command::new(setting("MCPAUTH_TEST_PYTHON"))
            .arg(PathBuf::from(setting("MCPAUTH_TEST_PROGRAMS")).join("mcp_server.py"))
            .args(["--url", own, "--issuer", &Server::OidcProvider.issuer()])
            .args(["--host", "127.0.0.1", "--port", &port])
            .arg("--tls-certificate")
            .arg(authority.join("server.crt"))
            .arg("--tls-key")
            .arg(authority.join("server.key"))
            .env("SSL_CERT_FILE", authority.join("ca.crt"))
            .stdout(self.file("mcp.log"))
            .stderr(self.file("mcp.err"))
            .kill_on_drop(true)
            .spawn()
            .expect("the MCP server starts")
    }

    fn start_proxy(&self) -> Child {
        let configuration = self.folder.join("tinyproxy.conf");
        let text = format!(
            "Listen 127.0.0.1\nPort {}\nBasicAuth operator {}\nConnectPort {}\nConnectPort {}\nTimeout 60\nLogLevel \
             Connect\nLogFile \"{}\"\n",
            port(&self.proxy_url),
            self.proxy_password,
            port(&Server::OidcProvider.issuer()),
            port(&self.mcp_url),
            self.log_path().display(),
        );
        std::fs::write(&configuration, text).unwrap();
        Command::new("tinyproxy")
            .arg("-d")
            .arg("-c")
            .arg(configuration)
            .stdout(self.file("tinyproxy.log"))
            .stderr(self.file("tinyproxy.err"))
            .kill_on_drop(true)
            .spawn()
            .expect("tinyproxy starts")
    }

    fn file(&self, name: &str) -> std::fs::File {
        std::fs::File::create(self.folder.join(name)).unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("requests.log")
    }

    pub fn proxy_log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap()
    }

    /// Tunnels that the proxy was asked for to this server, and opened.
    pub fn tunnels_to(&self, url: &str) -> usize {
        let asked_for = format!("CONNECT 127.0.0.1:{} ", port(url));
        let log = self.proxy_log();
        let mut lines = log.lines();
        let mut tunnels = 0;
        while let Some(line) = lines.next() {
            if line.contains(&asked_for) {
                let next = lines.clone().take_while(|line| !line.contains("): CONNECT "));
                tunnels += usize::from(
                    next.into_iter()
                        .any(|line| line.contains("Established connection")),
                );
            }
        }
        tunnels
    }

    /// As `HTTPS_PROXY` has it.
    pub fn proxy_url_with_password(&self, user: &str) -> String {
        let credentials = format!("http://{user}:{}@", self.proxy_password);
        self.proxy_url.replacen("http://", &credentials, 1)
    }

    /// Ports of loopback outside that are led to from inside.
    pub fn ports(&self) -> [u16; 2] {
        [self.api_server_port, port(&self.proxy_url)]
    }

    /// What nothing but the proxy leads to.
    pub fn hidden(&self) -> [String; 2] {
        [Server::OidcProvider.issuer(), self.mcp_url.clone()]
    }

    /// For the test that runs inside.
    pub fn write(&self) -> PathBuf {
        let file = self.folder.join("outside.json");
        std::fs::write(&file, serde_json::to_vec(self).unwrap()).unwrap();
        file
    }

    pub fn read(file: &Path) -> Self {
        let outside: Self = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        seen::note(&outside.proxy_password);
        outside
    }
}

fn port(url: &str) -> u16 {
    let url = Url::parse(url).expect("a URL");
    url.port_or_known_default().expect("a port")
}

fn api_server_port() -> u16 {
    let text = std::fs::read_to_string(setting("KUBECONFIG")).unwrap();
    let lines = text.lines().map(str::trim);
    let mut servers = lines.filter_map(|line| line.split_once("server: "));
    let (_, rest) = servers.next().expect("a kubeconfig names its server");
    let url = rest.trim_matches('"').split(['"', ',', '}']).next();
    port(url.expect("its URL"))
}
