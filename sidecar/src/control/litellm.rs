//! Whether LiteLLM runs where the sidecar expects it, by the listening socket on its port. No request is sent:
//! LiteLLM would log it and count it (`MAX_REQUESTS_BEFORE_RESTART`), and whether it is ready to serve is
//! what the probes of its own container ask.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::control::litellm_config::restart::LitellmState;
use crate::control::proc_net::{PROC_NET, Socket, View, all_sockets, sockets, view};
use crate::control::sock_diag;

/// Stands for the socket's number where the system does not tell it.
const UNKNOWN_INODE: u64 = 0;

/// LiteLLM, as it is to be in this pod.
#[derive(Clone, Debug)]
pub struct Litellm {
    pub address: SocketAddr,
    /// What the sidecar itself listens on.
    pub ours: Vec<SocketAddr>,
    /// Longest time for a connection, where the system does not list its sockets.
    pub timeout: Duration,
    /// [`PROC_NET`]; absent where other programs than the pod's listen too, so that it does not tell whose
    /// socket is LiteLLM's.
    pub proc_net: Option<PathBuf>,
}

/// The result of one probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProbeResult {
    Listening {
        /// The number of its listening socket.
        listener: u64,
        /// Its port, where it listens on all addresses, so that it can be reached past the sidecar.
        exposed: Option<u16>,
    },
    Down(NotReady),
}

/// Why the sidecar is not ready, as the probe answers it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct NotReady {
    /// Closed set.
    pub reason: &'static str,
    pub message: String,
}

impl Litellm {
    pub async fn probe(&self) -> ProbeResult {
        self.probe_by(sock_diag::listening).await
    }

    /// `kernel`: what listens, as the kernel tells it.
    async fn probe_by(&self, kernel: fn() -> io::Result<Vec<Socket>>) -> ProbeResult {
        let proc_net = self.proc_net.as_deref();
        let told = proc_net.filter(|path| *path == Path::new(PROC_NET));
        let told = told.and_then(|_| kernel().ok());
        let told = told.filter(|listening| self.is_any_of_ours_in(listening));
        let is_told = told.is_some();
        let Some(listening) = told.or_else(|| proc_net.and_then(sockets)) else {
            return self.connect().await;
        };
        let mut seen = view(&listening, self.address, &self.ours);
        // In their tables other kernels than Linux's do not list what listens first.
        if seen.litellm.is_none()
            && !is_told
            && let Some(all) = proc_net.and_then(all_sockets)
        {
            seen = view(&all, self.address, &self.ours);
        }
        let View { litellm, undeclared } = seen;
        match litellm {
            Some(socket) => ProbeResult::Listening {
                listener: socket.inode,
                exposed: socket
                    .address
                    .ip()
                    .is_unspecified()
                    .then_some(self.address.port()),
            },
            None => ProbeResult::Down(self.not_listening(&undeclared)),
        }
    }

    /// The port that this is asked on listens always: an answer without it leaves out LiteLLM's too.
    fn is_any_of_ours_in(&self, listening: &[Socket]) -> bool {
        let is_ours = |socket: &Socket| {
            let port = socket.address.port();
            self.ours.iter().any(|ours| ours.port() == port)
        };
        listening.iter().any(is_ours)
    }

    /// Where the system does not list its sockets, a connection tells as much.
    async fn connect(&self) -> ProbeResult {
        match timeout(self.timeout, TcpStream::connect(self.address)).await {
            Ok(Ok(_)) => ProbeResult::Listening {
                listener: UNKNOWN_INODE,
                exposed: None,
            },
            Ok(Err(_)) | Err(_) => ProbeResult::Down(self.not_listening(&[])),
        }
    }

    fn not_listening(&self, undeclared: &[Socket]) -> NotReady {
        let address = self.address;
        if undeclared.is_empty() {
            return NotReady {
                reason: "LiteLlmNotListening",
                message: format!("no process listens on {address} yet"),
            };
        }
        let listeners = undeclared
            .iter()
            .map(|socket| format!("{} (user {})", socket.address, socket.uid));
        NotReady {
            reason: "UndeclaredListener",
            message: format!(
                "no process listens on {address}, where LiteLLM should, but there is {}. LiteLLM takes a \
                 random port when its own is taken. Check that nothing overrides --host and --port of \
                 LiteLLM",
                listeners.collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

impl From<&ProbeResult> for LitellmState {
    fn from(result: &ProbeResult) -> Self {
        match result {
            ProbeResult::Listening { listener, .. } => Self::Listening { listener: *listener },
            ProbeResult::Down(_) => Self::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn litellm(address: SocketAddr) -> Litellm {
        Litellm {
            address,
            ours: vec![],
            timeout: Duration::from_secs(60),
            proc_net: Some("/proc/net".into()),
        }
    }

    fn reason(result: ProbeResult) -> &'static str {
        match result {
            ProbeResult::Listening { .. } => "listening",
            ProbeResult::Down(why) => why.reason,
        }
    }

    /// `/proc/net` with this table.
    fn proc_net(lines: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tcp"), format!("head\n{lines}")).unwrap();
        folder
    }

    #[tokio::test]
    async fn it_runs_when_its_port_listens_and_keeps_its_socket() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let health = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut litellm = litellm(socket.local_addr().unwrap());
        litellm.ours = vec![health.local_addr().unwrap()];
        // By which reason depends on what else listens on this machine.
        assert!(matches!(litellm.probe().await, ProbeResult::Down(_)));
        let listener = socket.listen(1).unwrap();
        let first = litellm.probe().await;
        assert!(
            matches!(first, ProbeResult::Listening { listener, exposed: None } if listener > 0),
            "{first:?}"
        );
        assert_eq!(litellm.probe().await, first);
        drop(listener);
        assert!(matches!(litellm.probe().await, ProbeResult::Down(_)));
    }

    #[tokio::test]
    async fn it_gets_no_connection_from_being_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let litellm = litellm(listener.local_addr().unwrap());
        assert_eq!(reason(litellm.probe().await), "listening");
        let accepted = futures::FutureExt::now_or_never(listener.accept());
        assert!(accepted.is_none(), "{accepted:?}");
    }

    #[tokio::test]
    async fn it_is_found_where_the_kernel_answers_without_what_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut litellm = litellm(listener.local_addr().unwrap());
        litellm.ours = vec![health.local_addr().unwrap()];
        assert_eq!(reason(litellm.probe_by(|| Ok(Vec::new())).await), "listening");
        assert_eq!(
            reason(litellm.probe_by(|| Err(io::ErrorKind::NotFound.into())).await),
            "listening"
        );
    }

    #[tokio::test]
    async fn names_a_listener_it_did_not_expect() {
        let folder = proc_net(" 0: 00000000:4ABB 00000000:0000 0A 0:0 00:0 0 1000 0 41004 1\n");
        let mut litellm = litellm("127.0.0.1:16480".parse().unwrap());
        litellm.proc_net = Some(folder.path().to_owned());
        let ProbeResult::Down(why) = litellm.probe().await else {
            panic!()
        };
        assert_eq!(why.reason, "UndeclaredListener");
        assert!(
            why.message.contains("0.0.0.0:19131 (user 1000)"),
            "{}",
            why.message
        );
        litellm.ours = vec!["0.0.0.0:19131".parse().unwrap()];
        assert_eq!(reason(litellm.probe().await), "LiteLlmNotListening");
    }

    #[tokio::test]
    async fn finds_it_in_a_table_that_does_not_list_what_listens_first() {
        let folder = proc_net(
            " 0: 0100007F:1234 0100007F:D431 01 0:0 00:0 0 1000 0 41003 1\n \
              1: 0100007F:4060 00000000:0000 0A 0:0 00:0 0 1000 0 41001 1\n",
        );
        let mut litellm = litellm("127.0.0.1:16480".parse().unwrap());
        litellm.proc_net = Some(folder.path().to_owned());
        let listening = ProbeResult::Listening {
            listener: 41001,
            exposed: None,
        };
        assert_eq!(litellm.probe().await, listening);
    }

    #[tokio::test]
    async fn without_a_table_of_sockets_a_connection_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut litellm = litellm(listener.local_addr().unwrap());
        litellm.proc_net = Some("/does/not/exist".into());
        assert_eq!(reason(litellm.probe().await), "listening");
        drop(listener);
        assert_eq!(reason(litellm.probe().await), "LiteLlmNotListening");
    }
}
