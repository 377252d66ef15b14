//! A connection to a proxy that blocks its thread: cheap, and its delays are its own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Nothing in a benchmark takes as long; it only keeps a broken proxy from hanging it.
const IO_TIMEOUT: Duration = Duration::from_secs(15);
const CHUNK: usize = 256 * 1024;

pub struct Connection {
    stream: TcpStream,
    chunk: Vec<u8>,
    head: Vec<u8>,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    /// Bytes of the body.
    pub length: usize,
}

impl Connection {
    pub fn open(authority: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(authority)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        Ok(Self {
            stream,
            chunk: vec![0; CHUNK],
            head: Vec::new(),
        })
    }

    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request)?;
        self.receive()
    }

    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    /// One answer, whose body has a length or comes in chunks.
    pub fn receive(&mut self) -> io::Result<Answer> {
        self.head.clear();
        let end = loop {
            let read = self.read()?;
            self.head.extend_from_slice(&self.chunk[..read]);
            if let Some(end) = find(&self.head, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = String::from_utf8_lossy(&self.head[..end]).to_ascii_lowercase();
        let status = text.get(9..12).and_then(|status| status.parse().ok());
        let status = status.ok_or(ErrorKind::InvalidData)?;
        let stated = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|length| length.trim().parse::<usize>().ok());
        let mut have = self.head.len() - end;
        match stated {
            Some(length) => {
                while have < length {
                    have += self.read()?;
                }
            }
            None => {
                let mut tail = self.head[end..].to_vec();
                while !tail.ends_with(b"0\r\n\r\n") {
                    let read = self.read()?;
                    have += read;
                    tail.extend_from_slice(&self.chunk[..read]);
                    tail.drain(..tail.len().saturating_sub(5));
                }
            }
        }
        Ok(Answer {
            status,
            length: stated.unwrap_or(have),
        })
    }

    fn read(&mut self) -> io::Result<usize> {
        match self.stream.read(&mut self.chunk)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
