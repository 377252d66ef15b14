//! One row of the table: what is sent, and what must become of it.

use crate::peer::{Client, Upstream};
use crate::scene::{Sidecar, server};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Half {
    In,
    Out,
}

/// What the server does after its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    Stays,
    Closes,
    Resets,
}

pub struct Row {
    pub name: &'static str,
    pub half: Half,
    pub sent: Vec<u8>,
    /// What the server answers; `None` is an ordinary answer.
    pub answer: Option<(Vec<u8>, Then)>,
    /// What the client gets: for each answer its status, and our reason if it is ours; and whether the
    /// connection goes on, which the answer to another request proves.
    pub gets: &'static str,
    /// What the server sees: each request with all but what every request has.
    pub sees: &'static str,
}

pub const NOTHING: &str = "nothing";

/// Sends the row, and afterwards what tells whether anything of it is left: another request on the same
/// connection, and one of another user. Returns what was got and what was seen.
pub async fn run(row: &Row, sidecar: &Sidecar, upstream: &Upstream) -> (String, String) {
    let address = match row.half {
        Half::In => sidecar.inbound,
        Half::Out => sidecar.outbound,
    };
    upstream.begin(row.answer.clone());
    let mut client = Client::connect(address).await;
    let got = client.send(&row.sent).await;
    let seen = upstream.seen();
    let next = client.next("same-client").await;
    let goes_on = match next.as_deref() {
        None => "closed",
        Some("200 for same-client") => "open",
        Some(other) => panic!("{}: the next request on the connection got {other}", row.name),
    };
    drop(client);
    for user in ["ada", "grace"] {
        let next = Client::connect(address).await.next(user).await;
        let own = format!("200 for {user}");
        assert_eq!(next, Some(own), "{}: the answer is that user's own", row.name);
    }
    let got = match got.is_empty() {
        true => goes_on.to_owned(),
        false => format!("{got}; {goes_on}"),
    };
    (got, seen)
}

/// A sidecar before one server, which is LiteLLM as well.
pub async fn scene() -> (Sidecar, Upstream) {
    let upstream = Upstream::start().await;
    let tools = server(&format!("http://{}/mcp", upstream.address));
    (Sidecar::start(upstream.address, &[tools]), upstream)
}

/// Runs all rows one after the other through one sidecar, and says what differs.
pub async fn hold(rows: &[Row]) {
    let (sidecar, upstream) = scene().await;
    let mut differ = Vec::new();
    for row in rows {
        let (gets, sees) = run(row, &sidecar, &upstream).await;
        if (gets.as_str(), sees.as_str()) != (row.gets, row.sees) {
            differ.push(format!(
                "{} ({:?})\n  gets: {gets:?}\n  sees: {sees:?}",
                row.name, row.half
            ));
        }
    }
    assert!(
        differ.is_empty(),
        "{} rows differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
}
