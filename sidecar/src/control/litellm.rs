//! LiteLLM's own readiness, probed: whether it runs where the sidecar expects it, by a listening socket on
//! its port and 200 from its own readiness endpoint there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::control::litellm_config::restart::LitellmState;
use crate::control::proc_net::{Socket, View, sockets, view};

const READINESS_PATH: &str = "/health/readiness";
/// Stands for the socket's number where the system does not tell it.
const UNKNOWN_INODE: u64 = 0;

/// LiteLLM, as it is to be in this pod.
#[derive(Clone, Debug)]
pub struct Litellm {
    pub address: SocketAddr,
    /// What the sidecar itself listens on.
    pub ours: Vec<SocketAddr>,
    /// Longest time for an answer; shorter than the timeout of the probe that asks us.
    pub timeout: Duration,
    /// `/proc/net`; absent where other programs than the pod's listen too, so that it does not tell whose
    /// socket is LiteLLM's.
    pub proc_net: Option<PathBuf>,
}

/// The result of one probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProbeResult {
    Ready {
        /// The number of its listening socket.
        listener: u64,
        /// Whether it listens on all addresses, so that it can be reached past the sidecar.
        exposed: bool,
    },
    NotReady(NotReady),
    Down(NotReady),
}

/// Why it is not ready, as the probe answers it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct NotReady {
    /// Closed set.
    pub reason: &'static str,
    pub message: String,
}

impl Litellm {
    pub async fn probe(&self) -> ProbeResult {
        let (listener, exposed) = match self.proc_net.as_deref().and_then(sockets) {
            None => (UNKNOWN_INODE, false),
            Some(sockets) => {
                let View { litellm, undeclared } = view(&sockets, self.address, &self.ours);
                match litellm {
                    Some(socket) => (socket.inode, socket.address.ip().is_unspecified()),
                    None => return ProbeResult::Down(self.not_listening(&undeclared)),
                }
            }
        };
        match timeout(self.timeout, self.request_readiness()).await {
            Ok(Ok(StatusCode::OK)) => ProbeResult::Ready { listener, exposed },
            _ if exposed => ProbeResult::Down(self.port_taken()),
            Ok(Ok(status)) => ProbeResult::NotReady(NotReady {
                reason: "LiteLlmNotReady",
                message: format!("LiteLLM answers {READINESS_PATH} with {status}"),
            }),
            Ok(Err(error)) => {
                let not_ready = NotReady {
                    reason: "LiteLlmNotAnswering",
                    message: format!("LiteLLM on {}: {error}", self.address),
                };
                if listener == UNKNOWN_INODE {
                    ProbeResult::Down(not_ready)
                } else {
                    ProbeResult::NotReady(not_ready)
                }
            }
            Err(_) => ProbeResult::NotReady(NotReady {
                reason: "LiteLlmNotAnswering",
                message: format!("LiteLLM on {} gives no answer to {READINESS_PATH}", self.address),
            }),
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

    /// Injection has LiteLLM listen on one address only. A process that listens on all of them and does not
    /// answer as LiteLLM does counts as another program, until it turns out to be LiteLLM with other
    /// arguments.
    fn port_taken(&self) -> NotReady {
        NotReady {
            reason: "PortTaken",
            message: format!(
                "port {port}, where LiteLLM should listen, is held on all addresses by a process that \
                 does not answer {READINESS_PATH}: another container of the pod, whose ports should be \
                 declared so that LiteLLM gets another one, or LiteLLM itself, if something overrides its \
                 --host",
                port = self.address.port()
            ),
        }
    }

    async fn request_readiness(&self) -> Result<StatusCode, anyhow::Error> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(READINESS_PATH)
            .header(HOST, self.address.to_string())
            .body(Empty::<Bytes>::new())?;
        let answer = pin!(sender.send_request(request));
        // The connection is driven only until the head of the answer is there, and closed by being dropped.
        // It may end by itself first, with the answer given.
        let answer = match select(answer, connection).await {
            Either::Left((answer, _)) => answer,
            Either::Right((ended, answer)) => {
                ended?;
                answer.await
            }
        };
        Ok(answer?.status())
    }
}

impl From<&ProbeResult> for LitellmState {
    fn from(result: &ProbeResult) -> Self {
        match result {
            ProbeResult::Ready { listener, .. } => Self::Ready { listener: *listener },
            ProbeResult::NotReady(_) => Self::Starting,
            ProbeResult::Down(_) => Self::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn litellm(address: SocketAddr) -> Litellm {
        Litellm {
            address,
            ours: vec![],
            timeout: Duration::from_secs(5),
            proc_net: Some("/proc/net".into()),
        }
    }

    /// Answers each connection with these bytes.
    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /health/readiness HTTP/1.1\r\nhost: 127.0.0.1:"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    fn reason(result: ProbeResult) -> &'static str {
        match result {
            ProbeResult::Ready { .. } => "ready",
            ProbeResult::NotReady(why) | ProbeResult::Down(why) => why.reason,
        }
    }

    #[tokio::test]
    async fn is_ready_when_it_says_so_and_keeps_its_socket() {
        let litellm = litellm(answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await);
        let first = litellm.probe().await;
        assert!(
            matches!(first, ProbeResult::Ready { listener, exposed: false } if listener > 0),
            "{first:?}"
        );
        assert_eq!(litellm.probe().await, first);
    }

    #[tokio::test]
    async fn is_not_ready_when_it_says_otherwise_or_nothing() {
        let unavailable = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(reason(litellm(unavailable).probe().await), "LiteLlmNotReady");
        let closing = answering("").await;
        assert_eq!(reason(litellm(closing).probe().await), "LiteLlmNotAnswering");
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_wait_for_an_answer_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let result = litellm(listener.local_addr().unwrap()).probe().await;
        assert_eq!(reason(result), "LiteLlmNotAnswering");
    }

    #[tokio::test]
    async fn names_a_listener_it_did_not_expect() {
        let folder = tempfile::tempdir().unwrap();
        let table = "head\n 0: 00000000:4ABB 00000000:0000 0A 0:0 00:0 0 1000 0 41004 1\n";
        std::fs::write(folder.path().join("tcp"), table).unwrap();
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
    async fn names_a_port_that_somebody_else_holds_on_all_addresses() {
        let address = answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        let folder = tempfile::tempdir().unwrap();
        let port = address.port();
        let table = format!("head\n 0: 00000000:{port:04X} 00000000:0000 0A 0:0 00:0 0 1000 0 41004 1\n");
        std::fs::write(folder.path().join("tcp"), table).unwrap();
        let mut litellm = litellm(address);
        litellm.proc_net = Some(folder.path().to_owned());
        let ProbeResult::Down(why) = litellm.probe().await else {
            panic!()
        };
        assert_eq!(why.reason, "PortTaken");
        assert!(why.message.contains(&port.to_string()), "{}", why.message);
    }

    #[tokio::test]
    async fn without_a_table_of_sockets_the_answer_alone_counts() {
        let mut litellm = litellm(answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await);
        litellm.proc_net = Some("/does/not/exist".into());
        assert_eq!(
            litellm.probe().await,
            ProbeResult::Ready {
                listener: UNKNOWN_INODE,
                exposed: false
            }
        );
    }
}
