//! A network namespace of a test's own, in which the test runs again, with addresses of one family.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

/// Of the block that is for documentation (RFC 3849), so of nobody.
const POD: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Set where the test runs in its namespace.
const INSIDE: &str = "MCPAUTH_TEST_ADDRESS_FAMILY";

/// Runs `test` in a namespace that holds nothing yet. `name` is that of the calling test, which is started again for it.
pub fn in_a_namespace(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare can be started");
    assert!(status.success(), "it failed in the namespace: see above");
}

/// The address of a pod on a node that has IPv6 alone.
pub fn with_ipv6_alone() -> IpAddr {
    run("ip", &["link", "set", "lo", "up"]);
    // On loopback, since not every kernel has a device for it.
    let address = format!("{POD}/128");
    run("ip", &["address", "add", &address, "dev", "lo", "nodad"]);
    // The kernel gives every loopback that is up this one.
    assert_eq!(addresses("-4"), ["127.0.0.1/8"]);
    POD.into()
}

/// The address of a pod on a node that has no IPv6.
pub fn without_ipv6() -> IpAddr {
    for scope in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").ok();
    }
    run("ip", &["link", "set", "lo", "up"]);
    assert!(addresses("-6").is_empty(), "there is no IPv6");
    Ipv4Addr::LOCALHOST.into()
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| {
        panic!("{program}: {error}; this test takes iproute2 and util-linux (apt-get install them)")
    });
    assert!(status.success(), "{program} {arguments:?}");
}

/// The addresses of a family, `-4` or `-6`, that the namespace has.
fn addresses(family: &str) -> Vec<String> {
    let output = Command::new("ip")
        .args([family, "-oneline", "address", "show"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let address = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    text.lines().filter_map(address).collect()
}
