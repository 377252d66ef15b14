//! A network namespace of the test's own, in which the test runs again. What it is to reach of outside comes by files: a
//! socket of loopback inside leads to a socket of the file system, which no network namespace divides, and that to one of
//! loopback outside.

use std::path::{Path, PathBuf};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::Command;

use super::outside::Outside;

/// Set where the test runs in the namespace: the file that says what there is outside.
const INSIDE: &str = "MCPAUTH_TEST_ONE_WAY_OUT";

/// Runs `test` in a namespace that the proxy is the only way out of. `name` is that of the calling test, which is started
/// again for it, and `client` a name that no other test has.
pub async fn with_one_way_out(name: &str, client: &str, test: impl AsyncFnOnce(Outside)) {
    if let Some(file) = std::env::var_os(INSIDE) {
        let outside = Outside::read(Path::new(&file));
        bring_loopback_up().await;
        for port in outside.ports() {
            relay_inside(port, socket(&outside.folder, port)).await;
        }
        assert_nothing_else_is_reached(&outside).await;
        return test(outside).await;
    }
    // Ended when this returns, or panics.
    let (outside, _processes) = Outside::start(client).await;
    for port in outside.ports() {
        relay_outside(port, socket(&outside.folder, port));
    }
    let file = outside.write();
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let program = std::env::current_exe().unwrap();
    let status = command
        .arg("--")
        .arg(program)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, &file)
        .kill_on_drop(true)
        .status()
        .await
        .expect("unshare can be started");
    assert!(status.success(), "it failed in the namespace: see above");
}

fn socket(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!("{port}.socket"))
}

async fn bring_loopback_up() {
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .await;
    let status =
        status.unwrap_or_else(|error| panic!("ip: {error}; this test takes iproute2 (apt-get install it)"));
    assert!(status.success(), "loopback stays down");
}

async fn relay_inside(port: u16, socket: PathBuf) {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("a port of a new namespace is free");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                if let Ok(mut outside) = UnixStream::connect(socket).await {
                    let _ = copy_bidirectional(&mut client, &mut outside).await;
                }
            });
        }
    });
}

fn relay_outside(port: u16, socket: PathBuf) {
    let listener = UnixListener::bind(socket).expect("the folder is this test's own");
    tokio::spawn(async move {
        while let Ok((mut inside, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = copy_bidirectional(&mut inside, &mut server).await;
                }
            });
        }
    });
}

/// Without this the test would pass wherever the proxy is merely one way.
async fn assert_nothing_else_is_reached(outside: &Outside) {
    for url in outside.hidden() {
        let url = reqwest::Url::parse(&url).unwrap();
        let address = (url.host_str().unwrap(), url.port_or_known_default().unwrap());
        assert!(
            TcpStream::connect(address).await.is_err(),
            "{url} is reached without the proxy"
        );
    }
}
