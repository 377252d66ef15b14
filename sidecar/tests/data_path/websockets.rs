//! WebSockets to LiteLLM: their messages are requests like bodies, and they count as connections.

use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::litellm::{HANDSHAKE, SWITCHING};
use crate::scene::{Scripted, Sidecar, TEST_TIMEOUT, bytes, client_frame, read_head, send, server, whole};

const FORGED: &str = r#"{"type":"response.create","tools":[{"headers":{"Mcpauth-Context":"forged"}}]}"#;

/// As `/v1/responses` takes them over a WebSocket.
#[tokio::test]
async fn a_message_cannot_name_our_header_and_values_arrive_as_they_were() {
    let litellm = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(litellm.local_addr().unwrap(), &[server("http://127.0.0.1:9/mcp")]);
    let mut client = TcpStream::connect(sidecar.inbound).await.unwrap();
    let handshake = HANDSHAKE.replace(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    );
    client.write_all(handshake.as_bytes()).await.unwrap();
    let (mut server, _) = litellm.accept().await.unwrap();
    let head = read_head(&mut server).await;
    assert!(
        !head.contains("deflate"),
        "a compressed message could not be looked into: {head}"
    );
    server.write_all(SWITCHING.as_bytes()).await.unwrap();
    read_head(&mut client).await;
    for (message, expected) in [
        (
            FORGED.to_owned(),
            FORGED.replace("Mcpauth-Context", "Mcpauth-Contex_"),
        ),
        (
            r#"{"tools":[{"headers":{"x-mcp-tools-x-tenant":"a"}}]}"#.to_owned(),
            r#"{"tools":[{"headers":{"x-mcp-tools_x-tenant":"a"}}]}"#.to_owned(),
        ),
        (
            r#"{"input":"mcpauth-context"}"#.to_owned(),
            r#"{"input":"mcpauth-context"}"#.to_owned(),
        ),
    ] {
        for byte in client_frame(&message) {
            client.write_all(&[byte]).await.unwrap();
        }
        let expected = client_frame(&expected);
        let mut arrived = vec![0; expected.len()];
        let reading = server.read_exact(&mut arrived);
        timeout(TEST_TIMEOUT, reading).await.expect("it arrives").unwrap();
        assert_eq!(arrived, expected);
    }
    // What is no frame ends the tunnel, and LiteLLM sees nothing of it.
    client.write_all(b"\xc1\x80\0\0\0\0").await.unwrap();
    let mut rest = Vec::new();
    let reading = server.read_to_end(&mut rest);
    timeout(TEST_TIMEOUT, reading).await.expect("it ends").unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn nothing_but_a_get_becomes_a_websocket() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server("http://127.0.0.1:9/mcp")]);
    let request = Request::post("/v1/responses")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket");
    let answer = send(sidecar.inbound, request, whole(FORGED)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        bytes(answer).await,
        FORGED.replace("Mcpauth-Context", "Mcpauth-Contex_")
    );
    assert!(!litellm.only().headers.contains_key("upgrade"));
}
