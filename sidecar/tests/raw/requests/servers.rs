//! Requests to MCP servers.

mod framing;
mod headers;

use super::Rows;

pub fn add_to(rows: &mut Rows) {
    framing::add_to(rows);
    headers::add_to(rows);
}
