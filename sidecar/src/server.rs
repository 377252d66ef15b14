//! Listeners and worker threads. Each worker is a thread with a runtime of its own, which takes connections
//! of both halves and serves them to the end: a request is never handed from one thread to another. What
//! becomes of a connection is up to [`connection`].

mod bounds;
mod connection;
mod half;
mod http1;
mod http2;
mod load;
mod memory_return;
pub mod resource_limits;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::control::proc_net::is_without_ipv6;
use crate::http::transport::{keepalive, set_unacknowledged_timeout};
use crate::proxy::inbound::{CONNECTION_GUARD, Inbound};
use crate::proxy::outbound::Outbound;
pub use bounds::Bounds;
use connection::serve_connection;
use half::Half;
use load::{Load, SWEEP_INTERVAL};
use memory_return::MemoryReturn;

const BACKLOG: i32 = 4096;
/// Between two looks whether a connection beyond the bounds can be served.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);
/// What the kernel keeps of an answer that has not been sent yet: without a bound it would be megabytes for a client that
/// takes nothing, which count as the container's memory.
const MAX_UNSENT: u32 = 128 * 1024;
/// After an error of accept, which mostly means that there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After a port could not be listened on, which another process of the pod may hold.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// Sockets that are bound and not served yet.
pub struct Sockets {
    workers: Vec<WorkerSockets>,
    inbound: Option<SocketAddr>,
    outbound: SocketAddr,
    /// While it says false, the inbound port refuses connections; absent where it never does.
    open: Option<watch::Receiver<bool>>,
}

struct WorkerSockets {
    /// Bound, and listening once users may connect.
    inbound: Option<Socket>,
    outbound: TcpListener,
}

/// Threads that serve.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<Option<Duration>>,
}

/// What a worker serves.
#[derive(Clone)]
struct Halves {
    inbound: Option<Arc<Inbound>>,
    outbound: Arc<Outbound>,
}

impl Sockets {
    /// `inbound` is left out where only the outbound half is wanted. An address of `[::]` takes IPv4 as well,
    /// and is `0.0.0.0` where there is no IPv6. Port 0 is any free one.
    pub fn bind(
        inbound: Option<SocketAddr>,
        outbound: SocketAddr,
        workers: NonZeroUsize,
    ) -> io::Result<Self> {
        let mut inbound_sockets = match inbound {
            Some(address) => bind(address, workers)?.into_iter().map(Some).collect(),
            None => (0..workers.get()).map(|_| None).collect::<Vec<_>>(),
        };
        let outbound_sockets: Vec<TcpListener> = bind(outbound, workers)?
            .into_iter()
            .map(listen)
            .collect::<io::Result<_>>()?;
        let inbound = match inbound_sockets.first() {
            Some(Some(socket)) => Some(local_address(socket)?),
            _ => None,
        };
        let outbound = outbound_sockets
            .first()
            .map_or(Ok(outbound), TcpListener::local_addr)?;
        let workers = inbound_sockets
            .drain(..)
            .zip(outbound_sockets)
            .map(|(inbound, outbound)| WorkerSockets { inbound, outbound })
            .collect();
        Ok(Self {
            workers,
            inbound,
            outbound,
            open: None,
        })
    }

    /// Takes users' connections only while this says true, and refuses them else, as a port does on which nothing
    /// listens. The port is bound all the same, so that nothing else in the pod gets it.
    pub fn while_open(mut self, open: watch::Receiver<bool>) -> Self {
        self.open = Some(open);
        self
    }

    pub fn inbound(&self) -> Option<SocketAddr> {
        self.inbound
    }

    pub fn outbound(&self) -> SocketAddr {
        self.outbound
    }
}

impl Workers {
    /// One thread for each worker that `sockets` were bound for. That number must be the one the routes were
    /// made for: they keep connections for each.
    pub fn start(
        sockets: Sockets,
        inbound: Option<Arc<Inbound>>,
        outbound: Arc<Outbound>,
    ) -> io::Result<Self> {
        Self::start_within(Bounds::default(), sockets, inbound, outbound)
    }

    /// With bounds of one's own, which are for each half on each worker.
    pub fn start_within(
        bounds: Bounds,
        sockets: Sockets,
        inbound: Option<Arc<Inbound>>,
        outbound: Arc<Outbound>,
    ) -> io::Result<Self> {
        if sockets.workers.len() > outbound.workers().get() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "more workers than the routes are made for",
            ));
        }
        // Whoever connects from now on waits to be served.
        if sockets.open.is_none() {
            for socket in sockets
                .workers
                .iter()
                .filter_map(|worker| worker.inbound.as_ref())
            {
                socket.listen(BACKLOG)?;
            }
        }
        let (stop, stopped) = watch::channel(None);
        let open = sockets.open.clone();
        let halves = Halves { inbound, outbound };
        let mut threads = Vec::with_capacity(sockets.workers.len());
        for (worker, sockets) in sockets.workers.into_iter().enumerate() {
            let (halves, stopped, open) = (halves.clone(), stopped.clone(), open.clone());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let run = move || run(runtime, serve(worker, bounds, sockets, open, halves, stopped));
            threads.push(
                std::thread::Builder::new()
                    .name(format!("worker-{worker}"))
                    .spawn(run)?,
            );
        }
        Ok(Self { threads, stop })
    }

    /// Takes no new connections, lets requests that have begun come to their end for as long as `grace`, and
    /// then ends.
    pub fn stop(&self, grace: Duration) {
        self.stop.send_replace(Some(grace));
    }

    /// Blocks until all workers have ended.
    pub fn join(self) {
        for thread in self.threads {
            // A worker that panicked has said so; the others have still to end.
            let _ = thread.join();
        }
    }
}

/// Serves to the end. A name that is still being looked up then, in a thread of its own, may hang, and is not
/// waited for.
fn run(runtime: Runtime, serving: impl Future<Output = ()>) {
    runtime.block_on(serving);
    runtime.shutdown_background();
}

fn bind(address: SocketAddr, workers: NonZeroUsize) -> io::Result<Vec<Socket>> {
    let shared = workers.get() > 1;
    let first = match bound_socket(address, shared) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
            bound_socket((Ipv4Addr::UNSPECIFIED, address.port()).into(), shared)
        }
        bound => bound,
    }?;
    // With port 0 the first one decides.
    let address = local_address(&first)?;
    let mut sockets = vec![first];
    for _ in 1..workers.get() {
        sockets.push(bound_socket(address, shared)?);
    }
    Ok(sockets)
}

/// A bound socket, which refuses connections until it listens.
fn bound_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Only where needed: it would let a second process take the port as well, unseen.
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Accepted connections inherit these, which saves system calls for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    set_unacknowledged_timeout(&socket)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(MAX_UNSENT)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no internet address"))
}

async fn serve(
    worker: usize,
    bounds: Bounds,
    sockets: WorkerSockets,
    may_connect: Option<watch::Receiver<bool>>,
    halves: Halves,
    mut stopped: watch::Receiver<Option<Duration>>,
) {
    // Each connection holds a sender; when all are dropped, none is left.
    let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
    let acceptor = |half| Acceptor {
        worker,
        half,
        free: Arc::new(Semaphore::new(bounds.connections)),
        load: Load::new(bounds),
        stopped: stopped.clone(),
        open: open.clone(),
    };
    let outbound = acceptor(Half::Outbound(halves.outbound.clone()));
    let mut loads = vec![outbound.load.clone()];
    let announce = |acceptor: &Acceptor| {
        tokio::spawn(announce_retirement(
            acceptor.half.clone(),
            acceptor.load.clone(),
            stopped.clone(),
        ))
    };
    announce(&outbound);
    let mut loops = vec![tokio::spawn(
        async move { outbound.accept(sockets.outbound).await },
    )];
    if let Some((socket, inbound)) = sockets.inbound.zip(halves.inbound.clone()) {
        let inbound = acceptor(Half::Inbound(inbound));
        loads.push(inbound.load.clone());
        announce(&inbound);
        loops.push(tokio::spawn(async move {
            match may_connect {
                Some(may_connect) => inbound.accept_while(socket, may_connect).await,
                None => inbound.accept(socket.into()).await,
            }
        }));
    }
    drop(open);
    let sweeper = tokio::spawn(sweep(worker, halves, loads));
    let grace = match stopped.wait_for(Option::is_some).await {
        Ok(grace) => grace.unwrap_or_default(),
        // Nobody is left who could stop us: the process ends.
        Err(_) => Duration::ZERO,
    };
    for accepting in loops {
        accepting.abort();
    }
    if timeout(grace, all_closed.recv()).await.is_err() {
        tracing::info!(worker, "connections still open are cut");
    }
    sweeper.abort();
}

/// Tells connections when they are to take no more requests: at the end, and before that when the time to drain is over.
async fn announce_retirement(half: Half, load: Arc<Load>, mut stopped: watch::Receiver<Option<Duration>>) {
    tokio::select! {
        () = half.drained() => load.retire(false),
        _ = stopped.wait_for(Option::is_some) => {}
    }
    let _ = stopped.wait_for(Option::is_some).await;
    load.retire(true);
}

async fn sweep(worker: usize, halves: Halves, loads: Vec<Arc<Load>>) {
    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory = MemoryReturn::default();
    loop {
        ticks.tick().await;
        halves.outbound.sweep(worker);
        if let Some(inbound) = &halves.inbound {
            inbound.sweep(worker);
        }
        loads.iter().for_each(|load| load.sweep());
        memory.sweep(loads.iter().map(|load| load.parked()).sum());
    }
}

/// Takes the connections of one half.
struct Acceptor {
    worker: usize,
    half: Half,
    free: Arc<Semaphore>,
    load: Arc<Load>,
    stopped: watch::Receiver<Option<Duration>>,
    /// Held by each connection.
    open: mpsc::Sender<Infallible>,
}

impl Acceptor {
    /// Listens while this says true. What was taken before that ends is served to its end.
    async fn accept_while(&self, socket: Socket, mut may_connect: watch::Receiver<bool>) {
        let worker = self.worker;
        let shared = socket.reuse_port().unwrap_or_default();
        let address = match local_address(&socket) {
            Ok(address) => address,
            Err(error) => return tracing::error!(worker, %error, "socket cannot be served"),
        };
        let mut bound = Some(socket);
        // Without a sender the process ends.
        while may_connect.wait_for(|may_connect| *may_connect).await.is_ok() {
            let next = bound.take().map_or_else(|| bound_socket(address, shared), Ok);
            match next.and_then(listen) {
                Ok(socket) => {
                    tokio::select! {
                        () = self.accept(socket) => return,
                        _ = may_connect.wait_for(|may_connect| !*may_connect) => {}
                    }
                }
                Err(error) => {
                    tracing::error!(worker, %address, %error, "users cannot connect; trying again");
                    sleep(LISTEN_PAUSE).await;
                }
            }
            // Bound again at once, so that nothing else in the pod gets the port.
            bound = bound_socket(address, shared).ok();
        }
    }

    async fn accept(&self, socket: TcpListener) {
        let worker = self.worker;
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(worker, %error, "socket cannot be served"),
        };
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let (permit, connection) = self.make_room().await;
                    let (half, stopped, open) = (self.half.clone(), self.stopped.clone(), self.open.clone());
                    // A connection that becomes a WebSocket counts until that ends.
                    let guard = Arc::new((open, permit));
                    tokio::spawn(CONNECTION_GUARD.scope(
                        guard,
                        serve_connection(worker, connection, stream, peer.ip(), half, stopped),
                    ));
                }
                Err(error) => {
                    tracing::warn!(worker, %error, "connection not accepted");
                    self.load.shed_idle();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until one more connection is within the bounds. Those that only wait for a request make room; where all
    /// have one, whoever connects next waits in the kernel.
    async fn make_room(&self) -> (OwnedSemaphorePermit, load::Connection) {
        let mut permit = self.free.clone().try_acquire_owned().ok();
        loop {
            if permit.is_none() {
                self.load.shed_idle();
                permit = timeout(ROOM_INTERVAL, self.free.clone().acquire_owned())
                    .await
                    .ok()
                    .and_then(Result::ok);
            }
            if permit.is_some() {
                match self.load.connection() {
                    Some(connection) => {
                        if let Some(permit) = permit.take() {
                            return (permit, connection);
                        }
                    }
                    None => sleep(ROOM_INTERVAL).await,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_one_port_and_any_address_takes_ipv4() {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let workers = NonZeroUsize::new(3).unwrap();
        let sockets = Sockets::bind(Some(any), (Ipv4Addr::LOCALHOST, 0).into(), workers).unwrap();
        assert_eq!(sockets.workers.len(), 3);
        let port = sockets.inbound().unwrap().port();
        for worker in &sockets.workers {
            let inbound = worker.inbound.as_ref().unwrap();
            assert_eq!(local_address(inbound).unwrap().port(), port);
            inbound.listen(1).unwrap();
            assert_eq!(worker.outbound.local_addr().unwrap(), sockets.outbound());
        }
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn a_worker_ends_while_a_lookup_still_hangs() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (release, hanging) = std::sync::mpsc::channel::<Infallible>();
        let (began, beginning) = tokio::sync::oneshot::channel();
        let serving = async {
            tokio::task::spawn_blocking(move || {
                began.send(()).unwrap();
                hanging.recv()
            });
            beginning.await.unwrap();
        };
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            run(runtime, serving);
            ended.send(())
        });
        let outcome = end.recv_timeout(Duration::from_secs(30));
        assert_eq!(outcome, Ok(()), "it waits for the lookup");
        drop(release);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_ends_connections_whose_client_takes_nothing() {
        let sockets = Sockets::bind(None, (Ipv4Addr::LOCALHOST, 0).into(), NonZeroUsize::MIN).unwrap();
        let _client = std::net::TcpStream::connect(sockets.outbound()).unwrap();
        let listener = &sockets.workers[0].outbound;
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let bound = socket2::SockRef::from(&accepted).tcp_user_timeout().unwrap();
        assert_eq!(bound, Some(crate::http::transport::UNACKNOWLEDGED_TIMEOUT));
    }

    #[test]
    fn a_port_of_another_process_is_not_shared() {
        let first = Sockets::bind(None, (Ipv4Addr::LOCALHOST, 0).into(), NonZeroUsize::MIN).unwrap();
        let error = Sockets::bind(None, first.outbound(), NonZeroUsize::MIN)
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
