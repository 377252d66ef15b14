//! Two network namespaces of the test's own, node and pod, with a cable between them. The test runs again in the pod's.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::thread::{scope, sleep};

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{ATTEMPTS, PAUSE};

/// Of the block that is for documentation, so of nobody. The node has the address before it.
pub const POD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Where the mesh's proxy takes what comes to any port of the pod.
pub const PROXY_PORT: u16 = 15006;
/// Set where the test runs in the pod's namespace.
const INSIDE: &str = "MCPAUTH_TEST_MESH_POD";

pub struct Node {
    namespace: File,
    /// Holds the namespace until the test has ended.
    holder: Child,
}

/// Runs `test` in the pod's namespace. `name` is that of the calling test, which is started again for it.
pub fn in_two_namespaces(name: &str, test: impl FnOnce(&Node)) {
    if std::env::var_os(INSIDE).is_some() {
        let node = Node::connected();
        lead_to_proxy();
        return test(&node);
    }
    let mut command = new_namespace();
    let program = std::env::current_exe().unwrap();
    let status = command
        .arg(program)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare can be started");
    assert!(status.success(), "it failed in the namespace: see above");
}

impl Node {
    fn connected() -> Self {
        let mut holder = new_namespace();
        let holder = holder.arg("cat").stdin(Stdio::piped()).spawn().unwrap();
        let path = format!("/proc/{}/ns/net", holder.id());
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let has_moved = || std::fs::read_link(&path).is_ok_and(|namespace| namespace != own);
        for _ in 0..ATTEMPTS {
            if has_moved() {
                break;
            }
            sleep(PAUSE);
        }
        assert!(has_moved(), "the node has no namespace of its own");
        let node = Self {
            namespace: File::open(&path).unwrap(),
            holder,
        };
        let holder = node.holder.id().to_string();
        run("ip", &["link", "set", "lo", "up"]);
        run(
            "ip",
            &[
                "link", "add", "pod", "type", "veth", "peer", "name", "node", "netns", &holder,
            ],
        );
        run("ip", &["address", "add", &format!("{POD}/30"), "dev", "pod"]);
        run("ip", &["link", "set", "pod", "up"]);
        let of_node = Ipv4Addr::from(u32::from(POD) - 1);
        node.run(|| {
            run("ip", &["address", "add", &format!("{of_node}/30"), "dev", "node"]);
            run("ip", &["link", "set", "node", "up"]);
        });
        node
    }

    /// Runs this where the kubelet, and everybody else who calls the pod, is.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        scope(|threads| {
            let thread = threads.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.namespace.as_fd(), network).expect("the node is there");
                work()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// As `istio-init` does it: whatever comes from outside, but not what stays on loopback.
fn lead_to_proxy() {
    let port = PROXY_PORT.to_string();
    let redirect = ["-p", "tcp", "-j", "REDIRECT", "--to-ports", &port];
    run(
        "iptables",
        &[&["-t", "nat", "-A", "PREROUTING"], &redirect[..]].concat(),
    );
}

/// A program in a network namespace of its own, as root there.
fn new_namespace() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--");
    command
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| {
        panic!("{program}: {error}; this test takes iproute2, iptables and util-linux (apt-get install them)")
    });
    assert!(status.success(), "{program} {arguments:?}");
}
