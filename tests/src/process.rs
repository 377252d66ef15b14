//! What a process takes, by /proc.

use std::collections::HashSet;
use std::fs;

use crate::setting;

/// Clock ticks of a second, as Linux has them on every machine that runs this.
const TICKS: f64 = 100.0;

/// Resident memory in MB.
pub fn memory(process: u32) -> f64 {
    kilobytes(process, "VmRSS:") / 1000.0
}

/// The most it ever was.
pub fn peak_memory(process: u32) -> f64 {
    kilobytes(process, "VmHWM:") / 1000.0
}

fn kilobytes(process: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .expect("the process runs");
    // In units of 1024 bytes.
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<f64>()
        .expect("the process runs")
        * 1.024
}

/// Processor seconds since it started.
pub fn processor_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    // The name may hold anything; what follows its end is numbers.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("the process runs")
        .split_whitespace()
        .collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("the process runs");
    (ticks(11) + ticks(12)) / TICKS
}

/// Open connections to a port of this machine.
pub fn connections_to(process: u32, port: u16) -> usize {
    let sockets: HashSet<String> = fs::read_dir(format!("/proc/{process}/fd"))
        .expect("the process runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            let target = target.to_str()?;
            Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let remote = format!(":{port:04X}");
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).expect("the process runs");
    let is_established = |fields: &[&str]| fields[2].ends_with(&remote) && fields[3] == "01";
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| is_established(fields) && sockets.contains(fields[9]))
        .count()
}

/// The port of the API server, which is on this machine.
pub fn api_server_port() -> u16 {
    let kubeconfig = fs::read_to_string(setting("KUBECONFIG")).expect("the script has written it");
    let rest = kubeconfig
        .split("https://127.0.0.1:")
        .nth(1)
        .expect("its address");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a port")
}
