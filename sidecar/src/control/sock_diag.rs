//! Listening sockets of this network namespace, asked of the kernel by `NETLINK_SOCK_DIAG` (sock_diag(7)), which takes it a
//! tenth of a millisecond. `/proc/net/tcp` takes milliseconds, whatever is read of it: behind the last socket that listens the
//! kernel looks for one that does not, through a table that is as large as the node's memory demands.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as KernelSocket, Type};

use super::proc_net::Socket;

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u32 = 10;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST` and `NLM_F_DUMP`.
const DUMP: u16 = 0x301;

/// `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_msg` of Linux.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = 56;
const MESSAGE_BYTES: usize = 72;
/// Where in a message its fields are.
const PORT: usize = 4;
const ADDRESS: usize = 8;
const UID: usize = 64;
const INODE: usize = 68;

/// The kernel sends no more at once to whoever takes no more at once.
const BUFFER_BYTES: usize = 16 * 1024;
/// It answers while it is asked.
const TIMEOUT: Duration = Duration::from_secs(1);

/// An error where the kernel does not answer this way, such as gVisor's.
pub fn listening() -> io::Result<Vec<Socket>> {
    let domain = Domain::from(AF_NETLINK);
    let mut kernel = KernelSocket::new(domain, Type::RAW, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    kernel.set_read_timeout(Some(TIMEOUT))?;
    let mut sockets = Vec::new();
    for family in [AF_INET, AF_INET6] {
        kernel.write_all(&request(family))?;
        read_answer(&mut kernel, &mut sockets)?;
    }
    Ok(sockets)
}

fn request(family: u8) -> [u8; HEADER_BYTES + REQUEST_BYTES] {
    let mut bytes = [0; HEADER_BYTES + REQUEST_BYTES];
    let length = (HEADER_BYTES + REQUEST_BYTES) as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    let request = &mut bytes[HEADER_BYTES..];
    request[..2].copy_from_slice(&[family, IPPROTO_TCP]);
    request[4..8].copy_from_slice(&(1_u32 << TCP_LISTEN).to_ne_bytes());
    bytes
}

/// Reads the messages of one answer to its end.
fn read_answer(kernel: &mut impl Read, sockets: &mut Vec<Socket>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = kernel.read(&mut buffer)?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let (kind, message, after) = split_message(rest).ok_or(ErrorKind::InvalidData)?;
            match kind {
                // What fails within an answer is told by its end, as where the kernel has no module for TCP.
                NLMSG_DONE if error_number(message)? >= 0 => return Ok(()),
                NLMSG_DONE | NLMSG_ERROR => {
                    let number = error_number(message)?;
                    return Err(io::Error::from_raw_os_error(number.saturating_neg()));
                }
                SOCK_DIAG_BY_FAMILY => sockets.push(parse(message).ok_or(ErrorKind::InvalidData)?),
                _ => {}
            }
            rest = after;
        }
    }
}

/// Negative where something failed.
fn error_number(message: &[u8]) -> io::Result<i32> {
    Ok(i32::from_ne_bytes(
        bytes_at(message, 0).ok_or(ErrorKind::InvalidData)?,
    ))
}

/// Kind and content of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes_at(bytes, 0)?)).ok()?;
    let kind = u16::from_ne_bytes(bytes_at(bytes, 4)?);
    let message = bytes.get(HEADER_BYTES..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, message, after))
}

fn parse(message: &[u8]) -> Option<Socket> {
    let message = message.get(..MESSAGE_BYTES)?;
    let ip: IpAddr = match message[0] {
        AF_INET => Ipv4Addr::from(bytes_at::<4>(message, ADDRESS)?).into(),
        AF_INET6 => Ipv6Addr::from(bytes_at::<16>(message, ADDRESS)?).into(),
        _ => return None,
    };
    Some(Socket {
        address: SocketAddr::new(ip, u16::from_be_bytes(bytes_at(message, PORT)?)),
        uid: u32::from_ne_bytes(bytes_at(message, UID)?),
        inode: u32::from_ne_bytes(bytes_at(message, INODE)?).into(),
    })
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;
    use crate::control::proc_net;

    /// A dump's messages, each with its header.
    fn dump(messages: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, message) in messages {
            let length = (HEADER_BYTES + message.len()) as u32;
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(*message);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<Socket>> {
        let mut sockets = Vec::new();
        read_answer(&mut &*bytes, &mut sockets).map(|()| sockets)
    }

    #[test]
    fn the_kernel_lists_what_listens_as_its_table_does() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let v6 = TcpListener::bind("[::1]:0");
        let client = std::net::TcpStream::connect(v4.local_addr().unwrap()).unwrap();
        let listening = listening().unwrap();
        let table = proc_net::all_sockets(Path::new("/proc/net")).unwrap();
        for listener in [&v4, &everywhere].into_iter().chain(v6.as_ref().ok()) {
            let address = listener.local_addr().unwrap();
            let find = |sockets: &[Socket]| sockets.iter().find(|socket| socket.address == address).copied();
            assert!(find(&listening).is_some(), "{address}");
            assert_eq!(find(&listening), find(&table), "{address}");
        }
        let connected = client.local_addr().unwrap();
        assert!(listening.iter().all(|socket| socket.address != connected));
    }

    #[test]
    fn an_answer_of_the_kernels_ends_with_its_last_message() {
        let mut message = [0; MESSAGE_BYTES];
        message[0] = AF_INET;
        message[PORT..ADDRESS].copy_from_slice(&[0x40, 0x60, 0, 0]);
        message[ADDRESS..ADDRESS + 4].copy_from_slice(&[127, 0, 0, 1]);
        message[UID..INODE].copy_from_slice(&1000_u32.to_ne_bytes());
        message[INODE..].copy_from_slice(&41001_u32.to_ne_bytes());
        let expected = Socket {
            address: "127.0.0.1:16480".parse().unwrap(),
            uid: 1000,
            inode: 41001,
        };
        let done = (NLMSG_DONE, &[0; 4][..]);
        let found = read(&dump(&[(SOCK_DIAG_BY_FAMILY, &message), done])).unwrap();
        assert_eq!(found, [expected]);
        assert_eq!(read(&dump(&[done])).unwrap(), []);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let refused = dump(&[(kind, &(-2_i32).to_ne_bytes())]);
            assert_eq!(read(&refused).unwrap_err().kind(), ErrorKind::NotFound, "{kind}");
        }
        for bytes in [
            &b""[..],
            b"short",
            &dump(&[(SOCK_DIAG_BY_FAMILY, &[0; 8])]),
            &dump(&[(NLMSG_ERROR, b"")]),
            &dump(&[(NLMSG_DONE, b"")]),
            &[0xff; 32],
            &[0; 32],
        ] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }
}
