//! Requests of clients.

mod litellm;
mod servers;
mod targets;

use crate::row::{Half, Row, hold};

pub struct Rows(Vec<Row>);

#[tokio::test]
async fn what_clients_send_is_refused_or_reaches_the_server_in_one_meaning() {
    hold(&rows()).await;
}

pub fn rows() -> Vec<Row> {
    let mut rows = Rows(Vec::new());
    litellm::add_to(&mut rows);
    servers::add_to(&mut rows);
    targets::add_to(&mut rows);
    rows.0
}

impl Rows {
    fn add(&mut self, name: &'static str, half: Half, sent: Vec<u8>, gets: &'static str, sees: &'static str) {
        self.0.push(Row {
            name,
            half,
            sent,
            answer: None,
            gets,
            sees,
        });
    }
}

fn fill(before: &str, length: usize, after: &str) -> Vec<u8> {
    format!("{before}{}{after}", "x".repeat(length)).into_bytes()
}

/// A request with so many headers besides its `Host`.
fn many(number: usize) -> Vec<u8> {
    let lines = "X-Many: 1\r\n".repeat(number);
    format!("GET /a HTTP/1.1\r\nHost: llm\r\n{lines}\r\n").into_bytes()
}
