//! Cuts a stream of bytes into lines of a bounded length.

use bytes::{Bytes, BytesMut};

#[derive(Debug)]
pub struct Lines {
    buffer: BytesMut,
    /// Bytes known to hold no line break.
    searched: usize,
    longest: usize,
}

/// A line is longer than allowed.
#[derive(Debug, Eq, PartialEq)]
pub struct TooLong;

impl Lines {
    pub fn new(longest: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            longest,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its end.
    pub fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        match memchr::memchr(b'\n', &self.buffer[self.searched..]) {
            Some(at) => {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                if line.len() > self.longest {
                    Err(TooLong)
                } else {
                    Ok(Some(line.freeze()))
                }
            }
            None => {
                self.searched = self.buffer.len();
                if self.searched > self.longest {
                    Err(TooLong)
                } else {
                    Ok(None)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_what_arrives_in_pieces_and_parts_what_arrives_together() {
        let mut lines = Lines::new(10);
        lines.push(b"on");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"e\n\ntwo\nthr");
        assert_eq!(lines.next().unwrap().unwrap(), "one");
        assert_eq!(lines.next().unwrap().unwrap(), "");
        assert_eq!(lines.next().unwrap().unwrap(), "two");
        assert_eq!(lines.next(), Ok(None));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut lines = Lines::new(4);
        lines.push(b"1234");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"5");
        assert_eq!(lines.next(), Err(TooLong));
    }
}
