//! Copies bytes both ways on one thread and knows nothing of HTTP.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

pub fn pair(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let addresses = text
        .split_once('=')
        .and_then(|(listen, target)| Some((listen.parse().ok()?, target.parse().ok()?)));
    addresses.ok_or_else(|| "must be ADDRESS:PORT=ADDRESS:PORT".to_owned())
}

pub async fn run(pairs: Vec<(SocketAddr, SocketAddr)>) -> anyhow::Result<()> {
    let mut loops = Vec::new();
    for (listen, target) in pairs {
        let listener = TcpListener::bind(listen).await?;
        loops.push(tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                tokio::spawn(connection(stream, target));
            }
        }));
    }
    futures::future::join_all(loops).await;
    Ok(())
}

async fn connection(mut near: TcpStream, target: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let _ = copy_bidirectional(&mut near, &mut far).await;
}
