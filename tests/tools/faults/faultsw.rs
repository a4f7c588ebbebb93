//! faultsw: a user-space Ethernet switch with per-directed-link faults, for kernels without netem.
//! Build: rustc --edition 2021 -O -o faultsw faultsw.rs      (std only, Linux x86_64/aarch64)
//! Run:   faultsw --prefix ft --nodes 5 --ctl /tmp/ft/ctl.sock --seed 1
//!        (the namespaces <prefix>-n1..N must exist; a TAP called eth0 is made inside each)
//! Control: one text command per unix connection, see `help`.
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

extern "C" {
    fn setns(fd: i32, kind: i32) -> i32;
    fn ioctl(fd: i32, req: u64, arg: *mut u8) -> i32;
    fn write(fd: i32, buf: *const u8, n: usize) -> isize;
    fn dup(fd: i32) -> i32;
}
const CLONE_NEWNET: i32 = 0x4000_0000;
const TUNSETIFF: u64 = 0x4004_54ca;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

#[derive(Clone, Debug)]
struct Link {
    cut: bool,
    loss: u32, // parts per million
    dup: u32,
    corrupt: u32,
    reorder: u32, // share of frames that skip the delay
    delay_us: u64,
    jitter_us: u64,
    rate_kbit: u64, // 0 = unlimited
    queue_us: u64,  // with rate: frames that would wait longer are dropped
    mtu: usize,     // frames longer than this are silently dropped (PMTU black hole); 0 = off
    proto: u8,      // 0 = faults hit everything; 6 = only TCP, 17 = only UDP
    port: u16,      // 0 = any; otherwise only packets with this source or destination port
    rng: u64,
    next_free: Option<Instant>,
    sent: u64,
    dropped: u64,
    dups: u64,
    corrupted: u64,
}
impl Link {
    fn new(seed: u64) -> Self {
        Link {
            cut: false,
            loss: 0,
            dup: 0,
            corrupt: 0,
            reorder: 0,
            delay_us: 0,
            jitter_us: 0,
            rate_kbit: 0,
            queue_us: 500_000,
            mtu: 0,
            proto: 0,
            port: 0,
            rng: seed | 1,
            next_free: None,
            sent: 0,
            dropped: 0,
            dups: 0,
            corrupted: 0,
        }
    }
    fn heal(&mut self) {
        let (r, s, d, u, c) = (self.rng, self.sent, self.dropped, self.dups, self.corrupted);
        *self = Link::new(r);
        self.rng = r;
        self.sent = s;
        self.dropped = d;
        self.dups = u;
        self.corrupted = c;
    }
    fn rand(&mut self) -> u64 {
        // xorshift64*
        let mut x = self.rng;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.rng = x;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
    fn hit(&mut self, ppm: u32) -> bool {
        ppm > 0 && (self.rand() % 1_000_000) < ppm as u64
    }
}
struct Item {
    due: Instant,
    seq: u64,
    port: usize,
    frame: Vec<u8>,
}
impl PartialEq for Item {
    fn eq(&self, o: &Self) -> bool {
        self.seq == o.seq
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Item {
    fn cmp(&self, o: &Self) -> std::cmp::Ordering {
        (self.due, self.seq).cmp(&(o.due, o.seq))
    }
}

struct State {
    links: Vec<Link>,
    n: usize,
    macs: HashMap<[u8; 6], usize>,
    heap: BinaryHeap<Reverse<Item>>,
    seq: u64,
    log: Vec<String>,
    t0: Instant,
}
type Shared = Arc<(Mutex<State>, Condvar, Vec<RawFd>)>;

fn tap_in(ns: &str) -> std::io::Result<File> {
    let ns = ns.to_string();
    std::thread::spawn(move || -> std::io::Result<File> {
        let f = File::open(format!("/var/run/netns/{ns}"))?;
        if unsafe { setns(f.as_raw_fd(), CLONE_NEWNET) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut ifr = [0u8; 40];
        ifr[..4].copy_from_slice(b"eth0");
        ifr[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI).to_ne_bytes());
        if unsafe { ioctl(tun.as_raw_fd(), TUNSETIFF, ifr.as_mut_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(tun)
    })
    .join()
    .unwrap()
}
// Is this frame one that the link's filter selects?  (IPv4 and IPv6 without extension headers)
fn selected(l: &Link, f: &[u8]) -> bool {
    if l.proto == 0 && l.port == 0 {
        return true;
    }
    if f.len() < 34 {
        return false;
    }
    let (p, off) = match (f[12], f[13]) {
        (0x08, 0x00) => (f[23], 14 + ((f[14] & 15) as usize) * 4),
        (0x86, 0xdd) if f.len() >= 54 => (f[20], 54),
        _ => return false,
    };
    if l.proto != 0 && p != l.proto {
        return false;
    }
    if l.port != 0 {
        if f.len() < off + 4 {
            return false;
        }
        let s = u16::from_be_bytes([f[off], f[off + 1]]);
        let d = u16::from_be_bytes([f[off + 2], f[off + 3]]);
        if s != l.port && d != l.port {
            return false;
        }
    }
    true
}
fn send(fd: RawFd, f: &[u8]) {
    unsafe {
        write(fd, f.as_ptr(), f.len());
    }
}

fn forward(st: &mut State, from: usize, to: usize, frame: &[u8], out: &mut Vec<(usize, Vec<u8>)>) -> bool {
    let n = st.n;
    let now = Instant::now();
    let l = &mut st.links[from * n + to];
    if !selected(l, frame) {
        l.sent += 1;
        out.push((to, frame.to_vec()));
        return false;
    }
    if l.cut || (l.mtu > 0 && frame.len() > l.mtu + 14) {
        l.dropped += 1;
        return false;
    }
    let loss = l.loss;
    if l.hit(loss) {
        l.dropped += 1;
        return false;
    }
    let (dp, cp, rp) = (l.dup, l.corrupt, l.reorder);
    let copies = if l.hit(dp) {
        l.dups += 1;
        2
    } else {
        1
    };
    let mut frame = frame.to_vec();
    if frame.len() > 14 && l.hit(cp) {
        // flip one bit after the Ethernet header
        let i = 14 + (l.rand() as usize) % (frame.len() - 14);
        let b = (l.rand() % 8) as u8;
        frame[i] ^= 1 << b;
        l.corrupted += 1;
    }
    let mut due = now;
    if !l.hit(rp) {
        let j = if l.jitter_us > 0 { (l.rand() % (2 * l.jitter_us + 1)) as i64 - l.jitter_us as i64 } else { 0 };
        due += Duration::from_micros((l.delay_us as i64 + j).max(0) as u64);
    }
    if l.rate_kbit > 0 {
        let start = l.next_free.map_or(now, |t| t.max(now));
        if start.duration_since(now).as_micros() as u64 > l.queue_us {
            l.dropped += 1;
            return false;
        }
        let tx = Duration::from_micros(frame.len() as u64 * 8 * 1000 / l.rate_kbit);
        l.next_free = Some(start + tx);
        due = due.max(now) + (start + tx).duration_since(now);
    }
    l.sent += copies;
    let mut wake = false;
    for _ in 0..copies {
        if due <= now {
            out.push((to, frame.clone()));
        } else {
            st.seq += 1;
            wake = true;
            st.heap.push(Reverse(Item { due, seq: st.seq, port: to, frame: frame.clone() }));
        }
    }
    wake
}
fn reader(sh: Shared, me: usize, mut f: File) {
    let mut buf = vec![0u8; 65_600];
    let mut out = Vec::new();
    loop {
        let k = match f.read(&mut buf) {
            Ok(k) if k >= 14 => k,
            Ok(_) => continue,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        let fr = &buf[..k];
        let (dst, src): ([u8; 6], [u8; 6]) = (fr[0..6].try_into().unwrap(), fr[6..12].try_into().unwrap());
        let wake = {
            let mut st = sh.0.lock().unwrap();
            st.macs.insert(src, me);
            let targets: Vec<usize> = match (dst[0] & 1, st.macs.get(&dst)) {
                (0, Some(&p)) => vec![p],
                _ => (0..st.n).filter(|&p| p != me).collect(),
            };
            let mut w = false;
            for t in targets {
                if t != me {
                    w |= forward(&mut st, me, t, fr, &mut out);
                }
            }
            w
        };
        for (p, f) in out.drain(..) {
            send(sh.2[p], &f);
        }
        if wake {
            sh.1.notify_one();
        }
    }
}
fn sender(sh: Shared) {
    let mut g = sh.0.lock().unwrap();
    loop {
        let now = Instant::now();
        let mut out = Vec::new();
        while let Some(Reverse(i)) = g.heap.peek() {
            if i.due <= now {
                let Reverse(i) = g.heap.pop().unwrap();
                out.push(i);
            } else {
                break;
            }
        }
        if !out.is_empty() {
            drop(g);
            for i in out {
                send(sh.2[i.port], &i.frame);
            }
            g = sh.0.lock().unwrap();
            continue;
        }
        g = match g.heap.peek() {
            Some(Reverse(i)) => {
                let d = i.due - now;
                sh.1.wait_timeout(g, d).unwrap().0
            }
            None => sh.1.wait(g).unwrap(),
        };
    }
}
fn ppm(v: &str) -> Result<u32, String> {
    let v = v.trim();
    let f: f64 = if let Some(p) = v.strip_suffix('%') {
        p.parse::<f64>().map_err(|e| e.to_string())? / 100.0
    } else {
        v.parse().map_err(|_| format!("bad share {v}: write 5% or 0.05"))?
    };
    if !(0.0..=1.0).contains(&f) {
        return Err(format!("share {v} is not in 0..100%"));
    }
    Ok((f * 1e6) as u32)
}
fn dur_us(v: &str) -> Result<u64, String> {
    let (n, m) = if let Some(x) = v.strip_suffix("us") {
        (x, 1.0)
    } else if let Some(x) = v.strip_suffix("ms") {
        (x, 1e3)
    } else if let Some(x) = v.strip_suffix('s') {
        (x, 1e6)
    } else {
        (v, 1e3)
    };
    n.parse::<f64>().map(|f| (f * m) as u64).map_err(|_| format!("bad time {v}"))
}
fn set(s: &str, n: usize) -> Result<Vec<usize>, String> {
    if s == "*" {
        return Ok((0..n).collect());
    }
    let mut v = Vec::new();
    for part in s.split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b): (usize, usize) =
            (a.parse().map_err(|_| format!("bad node {part}"))?, b.parse().map_err(|_| format!("bad node {part}"))?);
        if a < 1 || b > n || a > b {
            return Err(format!("node {part} is not in 1..{n}"));
        }
        v.extend((a - 1)..b);
    }
    Ok(v)
}
const HELP: &str = "\
set FROM TO key=value...   one way; keys: loss dup corrupt reorder (5% or 0.05), delay jitter queue (20ms), rate (kbit/s), mtu (bytes), cut (0|1), proto (tcp|udp|any), port
both A B key=value...      both ways
cut A B                    partition, both ways    (A, B: 1 | 1,3 | 2-4 | *)
cut1 A B                   partition one way, A cannot reach B
isolate A                  A cut from every other node, both ways
heal [A B]                 remove faults (all, or both ways between A and B)
stats | log | help
";
fn command(sh: &Shared, line: &str) -> Result<String, String> {
    let w: Vec<&str> = line.split_whitespace().collect();
    let mut st = sh.0.lock().unwrap();
    let n = st.n;
    let need = |k: usize| if w.len() < k { Err(format!("{}: too few words; try help", w[0])) } else { Ok(()) };
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    let mut cross = |a: &[usize], b: &[usize], both: bool| {
        for &i in a {
            for &j in b {
                if i != j {
                    pairs.push((i, j));
                    if both {
                        pairs.push((j, i));
                    }
                }
            }
        }
    };
    match *w.first().ok_or("empty command")? {
        "set" | "both" => {
            need(4)?;
            cross(&set(w[1], n)?, &set(w[2], n)?, w[0] == "both");
            for kv in &w[3..] {
                let (k, v) = kv.split_once('=').ok_or(format!("{kv}: key=value wanted"))?;
                for &(i, j) in &pairs {
                    let l = &mut st.links[i * n + j];
                    match k {
                        "loss" => l.loss = ppm(v)?,
                        "dup" => l.dup = ppm(v)?,
                        "corrupt" => l.corrupt = ppm(v)?,
                        "reorder" => l.reorder = ppm(v)?,
                        "delay" => l.delay_us = dur_us(v)?,
                        "jitter" => l.jitter_us = dur_us(v)?,
                        "queue" => l.queue_us = dur_us(v)?,
                        "rate" => {
                            l.rate_kbit = v.parse().map_err(|_| "bad rate")?;
                            l.next_free = None
                        }
                        "mtu" => l.mtu = v.parse().map_err(|_| "bad mtu")?,
                        "port" => l.port = v.parse().map_err(|_| "bad port")?,
                        "proto" => {
                            l.proto = match v {
                                "tcp" => 6,
                                "udp" => 17,
                                "any" => 0,
                                _ => return Err("proto: tcp, udp or any".into()),
                            }
                        }
                        "cut" => l.cut = v == "1",
                        _ => return Err(format!("unknown key {k}")),
                    }
                }
            }
        }
        "cut" | "cut1" => {
            need(3)?;
            cross(&set(w[1], n)?, &set(w[2], n)?, w[0] == "cut");
            for &(i, j) in &pairs {
                st.links[i * n + j].cut = true;
            }
        }
        "isolate" => {
            need(2)?;
            let a = set(w[1], n)?;
            let b: Vec<usize> = (0..n).filter(|x| !a.contains(x)).collect();
            cross(&a, &b, true);
            for &(i, j) in &pairs {
                st.links[i * n + j].cut = true;
            }
        }
        "heal" => {
            if w.len() >= 3 {
                cross(&set(w[1], n)?, &set(w[2], n)?, true);
            } else {
                let all: Vec<usize> = (0..n).collect();
                cross(&all, &all, false);
            }
            for &(i, j) in &pairs {
                st.links[i * n + j].heal();
            }
        }
        "stats" => {
            let mut o = String::from("from to sent dropped dup corrupted cut loss_ppm delay_us\n");
            for i in 0..n {
                for j in 0..n {
                    if i != j {
                        let l = &st.links[i * n + j];
                        o += &format!(
                            "{} {} {} {} {} {} {} {} {}\n",
                            i + 1,
                            j + 1,
                            l.sent,
                            l.dropped,
                            l.dups,
                            l.corrupted,
                            l.cut as u8,
                            l.loss,
                            l.delay_us
                        );
                    }
                }
            }
            return Ok(o);
        }
        "log" => return Ok(st.log.join("\n") + "\n"),
        "help" => return Ok(HELP.into()),
        x => return Err(format!("unknown command {x}; try help")),
    }
    let t = st.t0.elapsed();
    st.log.push(format!("{:.3} {}", t.as_secs_f64(), line.trim()));
    Ok(format!("ok {} links\n", pairs.len()))
}
fn main() {
    let mut prefix = "ft".to_string();
    let mut n = 3usize;
    let mut ctl = String::new();
    let mut seed = 1u64;
    let a: Vec<String> = std::env::args().collect();
    let mut i = 1;
    while i < a.len() {
        let v = || {
            a.get(i + 1).cloned().unwrap_or_else(|| {
                eprintln!("{} wants a value", a[i]);
                std::process::exit(2)
            })
        };
        match a[i].as_str() {
            "--prefix" => prefix = v(),
            "--nodes" => n = v().parse().expect("--nodes"),
            "--ctl" => ctl = v(),
            "--seed" => seed = v().parse().expect("--seed"),
            "--send" => {
                // client mode: faultsw --ctl S --send 'command'
                let mut s = std::os::unix::net::UnixStream::connect(&ctl).unwrap_or_else(|e| {
                    eprintln!("{ctl}: {e}");
                    std::process::exit(1)
                });
                writeln!(s, "{}", v()).unwrap();
                let mut o = String::new();
                s.read_to_string(&mut o).unwrap();
                print!("{o}");
                std::process::exit(if o.starts_with("error") { 1 } else { 0 });
            }
            x => {
                eprintln!("unknown option {x}");
                std::process::exit(2)
            }
        }
        i += 2;
    }
    let taps: Vec<File> = (1..=n)
        .map(|k| {
            tap_in(&format!("{prefix}-n{k}")).unwrap_or_else(|e| {
                eprintln!("tap in {prefix}-n{k}: {e}");
                std::process::exit(1)
            })
        })
        .collect();
    let fds: Vec<RawFd> = taps.iter().map(|f| f.as_raw_fd()).collect();
    let links = (0..n * n)
        .map(|k| {
            Link::new(
                seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                    .wrapping_add((k as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03)),
            )
        })
        .collect();
    let sh: Shared = Arc::new((
        Mutex::new(State {
            links,
            n,
            macs: HashMap::new(),
            heap: BinaryHeap::new(),
            seq: 0,
            log: vec![format!("seed {seed}")],
            t0: Instant::now(),
        }),
        Condvar::new(),
        fds,
    ));
    let mut threads = Vec::new();
    for (me, f) in taps.iter().enumerate() {
        let d = unsafe { File::from_raw_fd(dup(f.as_raw_fd())) };
        let s = sh.clone();
        threads.push(std::thread::spawn(move || reader(s, me, d)));
    }
    {
        let s = sh.clone();
        threads.push(std::thread::spawn(move || sender(s)));
    }
    let _ = std::fs::remove_file(&ctl);
    let l = UnixListener::bind(&ctl).unwrap_or_else(|e| {
        eprintln!("{ctl}: {e}");
        std::process::exit(1)
    });
    println!("ready");
    std::io::stdout().flush().unwrap();
    for c in l.incoming().flatten() {
        let mut line = String::new();
        if BufReader::new(&c).read_line(&mut line).is_err() {
            continue;
        }
        let r = command(&sh, &line).unwrap_or_else(|e| format!("error: {e}\n"));
        let _ = (&c).write_all(r.as_bytes());
    }
    threads.into_iter().for_each(|thread| drop(thread.join()));
}
