//! What comes before the head of an answer.

use super::answers::outcome;
use crate::http::http1::preamble::{MAX_INTERIMS, MAX_PREAMBLE_BYTES};

const ANSWER: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const TAKEN: &str = "204 , whole, kept";
const TOO_LONG: &str =
    "failed: more interim answers (1xx), or empty lines, come before an answer than are taken";

/// In pieces as they may come.
fn outcome_of(sent: &str) -> String {
    let pieces: Vec<&[u8]> = sent.as_bytes().chunks(30_011).collect();
    outcome("GET", &pieces, false)
}

#[test]
fn interim_answers_have_an_end_by_their_number_and_by_their_length() {
    let short = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let many = short.repeat(MAX_INTERIMS);
    assert_eq!(outcome_of(&format!("{many}{ANSWER}")), TAKEN);
    assert_eq!(outcome_of(&format!("{many}{short}{ANSWER}")), TOO_LONG);

    let long = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "x".repeat(50_000));
    let fitting = MAX_PREAMBLE_BYTES / long.len();
    assert!(fitting < MAX_INTERIMS);
    assert_eq!(outcome_of(&format!("{}{ANSWER}", long.repeat(fitting))), TAKEN);
    assert_eq!(
        outcome_of(&format!("{}{ANSWER}", long.repeat(fitting + 1))),
        TOO_LONG
    );
}

/// More of them than the buffer holds: what is kept would be looked at again with each read.
#[test]
fn empty_lines_before_an_answer_are_not_kept_and_have_an_end() {
    for line in ["\r\n", "\n"] {
        let many = line.repeat(100_000);
        assert_eq!(outcome_of(&format!("{many}{ANSWER}")), TAKEN);
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
        assert_eq!(outcome_of(&format!("{many}{interim}{many}{ANSWER}")), TAKEN);
        let endless = line.repeat(MAX_PREAMBLE_BYTES / line.len() + 1);
        assert_eq!(outcome_of(&format!("{endless}{ANSWER}")), TOO_LONG);
    }
    assert!(outcome("GET", &[b"\r\n\rHTTP/1.1 200 OK\r\n\r\n"], true).starts_with("failed: malformed"));
}

/// Each answer of a connection has all of it.
#[test]
fn an_answer_does_not_pay_for_what_came_before_another() {
    use super::*;
    let (mut client, mut server) = connection();
    let many = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(MAX_INTERIMS);
    for _ in 0..3 {
        client.begin(get());
        write(&mut server, format!("{many}{ANSWER}").as_bytes());
        assert!(matches!(client.poll_answer(&mut unwoken()), Poll::Ready(Ok(_))));
        assert!(matches!(client.poll_frame(&mut unwoken()), Poll::Ready(None)));
        assert!(client.is_at_rest());
    }
}
