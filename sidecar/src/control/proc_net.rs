//! Listening sockets of this network namespace, from `/proc/net/tcp` and `tcp6`, where the kernel does not tell them in a better
//! way ([`sock_diag`](super::sock_diag)). All containers of a pod share it, so the sidecar sees LiteLLM's socket there, and one that LiteLLM was not supposed to open: it
//! falls back to a random port on all addresses, in silence, when its own port is taken.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use mcp_auth_protocol::sync::Problem;
use tokio::net::{TcpListener, TcpSocket};
use tracing::{error, info};

use super::start_problems::StartProblems;

pub const PROC_NET: &str = "/proc/net";
const LISTEN: &str = "0A";
/// Bytes of a table, some ten lines.
const READ_AT_ONCE: usize = 2 * 1024;
/// The users that the proxies of Istio, Linkerd, Kuma and Consul run as, by which their own rules know them. They listen
/// on all addresses, and are not LiteLLM.
const MESH_USERS: [u32; 4] = [1337, 2102, 5678, 5995];
const RETRY: Duration = Duration::from_secs(1);
const BACKLOG: u32 = 1024;

/// A listening socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Socket {
    pub address: SocketAddr,
    pub uid: u32,
    /// Another number for each socket there ever was.
    pub inode: u64,
}

/// What the sockets say about LiteLLM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct View {
    /// LiteLLM's socket, on the address it was given or on all addresses.
    pub litellm: Option<Socket>,
    /// On all addresses, and neither LiteLLM's port nor one of ours, nor that of a mesh's proxy.
    pub undeclared: Vec<Socket>,
}

/// Reads what listens from the beginning of both tables. `None` where there are none, as on other systems than
/// Linux.
pub fn sockets(proc_net: &Path) -> Option<Vec<Socket>> {
    both(proc_net, read_listening)
}

/// As [`sockets`], but from the whole of both tables: gVisor lists sockets in any order.
pub fn all_sockets(proc_net: &Path) -> Option<Vec<Socket>> {
    both(proc_net, |path| std::fs::read_to_string(path))
}

fn both(proc_net: &Path, read: impl Fn(&Path) -> io::Result<String>) -> Option<Vec<Socket>> {
    let v4 = read(&proc_net.join("tcp")).ok()?;
    let v6 = read(&proc_net.join("tcp6")).unwrap_or_default();
    Some(parse(&v4).into_iter().chain(parse(&v6)).collect())
}

/// The beginning of a table: listening sockets come first. To list the others takes the kernel milliseconds,
/// and it is asked once a second.
fn read_listening(path: &Path) -> io::Result<String> {
    let mut lines = BufReader::with_capacity(READ_AT_ONCE, File::open(path)?);
    let mut table = String::new();
    loop {
        let begin = table.len();
        let read = lines.read_line(&mut table)?;
        let listens = table[begin..].split_ascii_whitespace().nth(3) == Some(LISTEN);
        if read == 0 || begin > 0 && !listens {
            return Ok(table);
        }
    }
}

/// The listening sockets in a table. Lines that are not understood are left out.
pub fn parse(table: &str) -> Vec<Socket> {
    table.lines().skip(1).filter_map(parse_line).collect()
}

/// Decides which socket is LiteLLM's and which ones no container has declared.
pub fn view(sockets: &[Socket], litellm: SocketAddr, ours: &[SocketAddr]) -> View {
    let is_litellm = |socket: &&Socket| {
        socket.address.port() == litellm.port()
            && (socket.address.ip() == litellm.ip() || socket.address.ip().is_unspecified())
    };
    let is_declared = |port: u16| port == litellm.port() || ours.iter().any(|address| address.port() == port);
    let undeclared = |socket: &&Socket| {
        socket.address.ip().is_unspecified()
            && !is_declared(socket.address.port())
            && !MESH_USERS.contains(&socket.uid)
    };
    View {
        // The exact address comes first, whatever else listens on that port.
        litellm: sockets
            .iter()
            .filter(is_litellm)
            .min_by_key(|s| s.address.ip().is_unspecified())
            .copied(),
        undeclared: sockets.iter().filter(undeclared).copied().collect(),
    }
}

/// Binds a listener, trying again for as long as it takes. `[::]` takes IPv4 as well, and is `0.0.0.0` where
/// there is no IPv6.
pub async fn bind(what: &'static str, address: SocketAddr, problems: &StartProblems) -> TcpListener {
    let listen = |address: SocketAddr| {
        // `TcpListener::bind` of tokio sets this as well: a restarted sidecar finds connections in TIME_WAIT.
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let bind = || match listen(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    };
    retry(what, address, problems, bind).await
}

/// Whether the node has no IPv6 (EAFNOSUPPORT), or no address of it (EADDRNOTAVAIL).
pub fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(97 | 99))
}

/// Calls `listen` every second until it succeeds, and tells meanwhile why it does not. To exit instead would not free the port, and would have the
/// kubelet restart LiteLLM, whose probes pass through the sidecar.
pub async fn retry<T>(
    what: &'static str,
    address: SocketAddr,
    problems: &StartProblems,
    listen: impl Fn() -> io::Result<T>,
) -> T {
    let mut last_told = None;
    loop {
        let error = match listen() {
            Ok(listener) => {
                info!(%address, "{what} listens");
                problems.clear(what);
                return listener;
            }
            Err(error) => error,
        };
        if last_told != Some(error.kind()) {
            last_told = Some(error.kind());
            let holder = holder(&error, address);
            error!(%address, %error, "{what} cannot listen and tries again every second{holder}");
            let message = format!(
                "{what} cannot listen on {address} ({}) and tries again every second{holder}",
                error.kind()
            );
            problems.set(what, Problem::new("CannotListen", message));
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn holder(error: &io::Error, address: SocketAddr) -> String {
    if error.kind() != io::ErrorKind::AddrInUse {
        return String::new();
    }
    let socket = sockets(Path::new(PROC_NET)).and_then(|sockets| {
        sockets
            .into_iter()
            .find(|socket| socket.address.port() == address.port())
    });
    match socket {
        Some(Socket { address, uid, .. }) => format!(
            "; a process of user {uid} in this pod holds {address}: LiteLLM, if it was not moved to its new \
             port, or another container. Give that one another port"
        ),
        None => "; another process in this pod holds the port: give that one another port".to_owned(),
    }
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`
fn parse_line(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    let address = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    (state == LISTEN).then_some(Socket { address, uid, inode })
}

/// The kernel prints each 32 bits of an address as a number in the machine's byte order.
fn parse_ip(hexadecimal: &str) -> Option<IpAddr> {
    let address_word = |index: usize| {
        let digits = hexadecimal.get(8 * index..8 * index + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hexadecimal.len() {
        8 => Some(Ipv4Addr::from(address_word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&address_word(index)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:4060 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 41001 1 0000000000000000 100 0 0 10 0
   1: 00000000:0FA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532        0 41002 1 0000000000000000 100 0 0 10 0
   2: 0100007F:4060 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 41003 1 0000000000000000 20 4 30 10 -1
   3: 00000000:4ABB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 41004 1 0000000000000000 100 0 0 10 0
   nonsense
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 51001 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 51002 1 0000000000000000 100 0 0 10 0
";

    fn socket(address: &str, uid: u32, inode: u64) -> Socket {
        Socket {
            address: address.parse().unwrap(),
            uid,
            inode,
        }
    }

    #[test]
    fn reads_the_listening_sockets_and_no_others() {
        assert_eq!(
            parse(TCP),
            [
                socket("127.0.0.1:16480", 1000, 41001),
                socket("0.0.0.0:4000", 65532, 41002),
                socket("0.0.0.0:19131", 1000, 41004)
            ]
        );
        assert_eq!(
            parse(TCP6),
            [socket("[::]:8080", 0, 51001), socket("[::1]:8081", 0, 51002)]
        );
    }

    #[test]
    fn names_wildcard_listeners_that_nobody_declared() {
        let sockets: Vec<_> = parse(TCP).into_iter().chain(parse(TCP6)).collect();
        let litellm = "127.0.0.1:16480".parse().unwrap();
        let view = view(&sockets, litellm, &["0.0.0.0:4000".parse().unwrap()]);
        assert_eq!(view.litellm, Some(sockets[0]));
        assert_eq!(view.undeclared, [sockets[2], sockets[3]]);
    }

    #[test]
    fn the_proxy_of_a_mesh_is_not_taken_for_litellm_on_a_random_port() {
        let sockets = [
            socket("0.0.0.0:15006", 1337, 1),
            socket("[::]:4143", 2102, 2),
            socket("0.0.0.0:15010", 5678, 3),
            socket("0.0.0.0:20000", 5995, 4),
            socket("0.0.0.0:19131", 1000, 5),
        ];
        let litellm = "127.0.0.1:16480".parse().unwrap();
        assert_eq!(view(&sockets, litellm, &[]).undeclared, [sockets[4]]);
    }

    #[test]
    fn a_node_without_ipv6_is_told_from_a_port_that_is_taken() {
        let errors = [97, 99, 98].map(io::Error::from_raw_os_error);
        assert_eq!(errors.map(|error| is_without_ipv6(&error)), [true, true, false]);
    }

    #[test]
    fn litellm_on_all_addresses_is_litellm_still() {
        let everywhere = [socket("0.0.0.0:16480", 1, 2)];
        let litellm = "127.0.0.1:16480".parse().unwrap();
        assert_eq!(view(&everywhere, litellm, &[]).litellm, Some(everywhere[0]));
        let elsewhere = [socket("10.0.0.1:16480", 1, 2)];
        assert_eq!(view(&elsewhere, litellm, &[]).litellm, None);
    }

    #[tokio::test]
    async fn sees_a_real_listener() {
        let problems = StartProblems::default();
        let listener = bind("the test", "127.0.0.1:0".parse().unwrap(), &problems).await;
        let address = listener.local_addr().unwrap();
        let sockets = sockets(Path::new("/proc/net")).unwrap();
        assert!(sockets.iter().any(|socket| socket.address == address));
        drop(listener);
    }

    #[tokio::test]
    async fn waits_for_a_port_that_is_taken_and_tells_of_it_meanwhile() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = holder.local_addr().unwrap();
        let error = TcpListener::bind(address).await.unwrap_err();
        assert!(super::holder(&error, address).contains(&address.to_string()));
        let problems = StartProblems::default();
        let mut told = problems.subscribe();
        let waiting = tokio::spawn(async move { bind("the test", address, &problems).await });
        told.changed().await.unwrap();
        let problem = told.borrow_and_update()["the test"].clone();
        assert_eq!(problem.reason, "CannotListen");
        let expected = format!("the test cannot listen on {address} (address in use)");
        assert!(problem.message.starts_with(&expected), "{}", problem.message);
        assert!(!waiting.is_finished());
        drop(holder);
        assert_eq!(waiting.await.unwrap().local_addr().unwrap(), address);
        assert!(told.borrow().is_empty(), "it listens");
    }
}
