//! Server-sent events (HTML section 9.2): lines and fields of one event, and whether a client could take it
//! for an `endpoint` event.

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The data of the event, if it is an `endpoint` event.
pub fn endpoint_data(event: &[u8]) -> Option<String> {
    let mut kind: &[u8] = b"";
    let mut data: Option<Vec<u8>> = None;
    for (name, value) in lines(event).filter_map(field) {
        match name {
            b"event" => kind = value,
            b"data" => match &mut data {
                None => data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            },
            _ => {}
        }
    }
    if kind != b"endpoint" {
        return None;
    }
    Some(String::from_utf8_lossy(&data?).into_owned())
}

/// Whether any client could take one of these lines for `event: endpoint`. Old ones also end lines at
/// characters at which the specification does not, and a byte order mark may stand at the beginning.
/// `is_continuation`: it is not the beginning of an event.
pub fn claims_endpoint(lines: &[u8], is_continuation: bool) -> bool {
    const ENDS: [&[u8]; 11] = [
        b"\n",
        b"\r",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\x1d",
        b"\x1e",
        "\u{85}".as_bytes(),
        "\u{2028}".as_bytes(),
        "\u{2029}".as_bytes(),
        BYTE_ORDER_MARK,
    ];
    memchr::memmem::find_iter(lines, b"endpoint").any(|at| {
        let (before, after) = (&lines[..at], &lines[at + b"endpoint".len()..]);
        let before = before.strip_suffix(b" ").unwrap_or(before);
        let Some(before) = before.strip_suffix(b"event:") else {
            return false;
        };
        let begins = before.is_empty() && !is_continuation || ENDS.iter().any(|end| before.ends_with(end));
        begins && ENDS.iter().any(|end| after.starts_with(end))
    })
}

/// Name and value of a line (HTML section 9.2.6): one space after the colon is not part of the value.
pub fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = content(line);
    // At the beginning it is no part of the text, and elsewhere it never begins a field.
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    if line.is_empty() {
        return None;
    }
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let value = line.get(colon + 1..).unwrap_or_default();
    Some((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)))
}

/// Lines, each with its end.
pub fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = event;
    std::iter::from_fn(move || {
        let end = match memchr::memchr2(b'\r', b'\n', rest) {
            None if rest.is_empty() => return None,
            None => rest.len(),
            Some(at) if rest[at] == b'\r' && rest.get(at + 1) == Some(&b'\n') => at + 2,
            Some(at) => at + 1,
        };
        let (line, after) = rest.split_at(end);
        rest = after;
        Some(line)
    })
}

pub fn content(line: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'\r', b'\n', line).unwrap_or(line.len());
    &line[..end]
}
