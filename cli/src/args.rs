//! The command line, as typed.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

mod backup;
mod containers;
mod daemon;
mod enrol;
mod look;
mod nats;
mod presence;
mod server;

pub(crate) use backup::{Backup, Restore, StoreAction, StoreArgs};
pub(crate) use containers::{Ps, Sweep};
pub(crate) use daemon::{DaemonAction, DaemonAlone, SetupDocker, SetupHost, Uninstall};
pub(crate) use enrol::{Init, Invite, Join, Place};
pub(crate) use look::{DnsAction, DnsSocket, Doctor, Top, Trace};
pub(crate) use nats::{NatsAction, NatsAlone, NatsGrow, NatsPeerRemove, NatsRestart, NatsStatus};
pub(crate) use presence::{At, Get, PresenceAction, PresenceAlone, Set, Who};
pub(crate) use server::{Server, ServerAction};

use clap::{ArgGroup, Args, Parser, Subcommand};
use ipnet::IpNet;
use kith_dns::Tls;
use kith_gossip_client::Endpoint;

use crate::config::{Split, dns_listen};
use crate::log::Format;

/// Where the API is when nobody says otherwise.
pub(crate) const DEFAULT_API: &str = "http://127.0.0.1:31220";

const AFTER: &str = "\
Exit codes:
   0  done, or stopped as asked
   1  the operation failed: the store refused it, the name does not exist
   2  wrong usage of the command line
   3  the API cannot be reached, or did not answer
  69  a part cannot start, an address is taken, or a DNS server does not answer
  70  a part failed again and again, or could not be stopped
  74  a file or stdout cannot be read or written
  78  the configuration is wrong

Environment:
  KITH_API, KITH_TOKEN_FILE, KITH_CONFIG, KITH_LOG, KITH_LOG_FORMAT  for the flags of these names
  KITH_RESOLVER                                 for `kith resolve --server`
  KITH_DNS_SOCKET                               for --socket of `kith top` and `kith dns trace`
  KITH_PRESENCE                                 for --at of `kith presence`
  KITH_SECTION_KEY, as KITH_GOSSIP_LISTEN       for a key of the configuration

Data goes to stdout, logs and errors to stderr.

Start here:
  kith dev                                three servers on this machine, to look at
  kith init                               the first server of a real cluster
  kith query 'SELECT * FROM services'
  kith resolve casa-api.internal --server 127.0.0.1:5302";

/// Tells every container on every server where everything is.
#[derive(Debug, Parser)]
#[command(name = "kith", version, after_help = AFTER, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command knows.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// What is logged: error, warn, info, debug, trace, or by module (KITH_LOG)
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// How it is logged (KITH_LOG_FORMAT; default text)
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<Format>,
}

/// Which store is spoken to.
#[derive(Debug, Args)]
pub(crate) struct Store {
    /// Where the API is: http://HOST:PORT or unix:/PATH (KITH_API; default http://127.0.0.1:31220)
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) api: Option<Endpoint>,
    /// File that holds the API's token (KITH_TOKEN_FILE)
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run this server: the store, DNS and the daemon, each restarted if it fails
    #[command(after_help = "\
Examples:
  kith agent --config /etc/kith/kith.toml
  kith agent --set node.name=fra-1 --set dns.listen=10.210.1.1:53")]
    Agent(Configured),
    /// Run the store alone
    #[command(after_help = "Example:\n  kith gossip --config /etc/kith/kith.toml")]
    Gossip(Configured),
    /// Run the DNS server alone, fed by a store's API or by zone files
    #[command(after_help = "\
The store is found at --api, else at the configuration's api.unix. With --zone-file or --forward there is neither
store nor configuration: the zones of the files and the names of those servers are answered, and nothing else.

Examples:
  kith dns --config /etc/kith/kith.toml
  kith dns --api unix:/run/kith/kith.sock --set dns.listen=127.0.0.1:5353
  kith dns --listen 127.0.0.1:5353 --zone-file example.zone
  kith dns --listen 127.0.0.1:5353 --forward corp.example=10.0.0.53
  kith dns trace casa-api.internal")]
    Dns(Box<DnsAlone>),
    /// Run the daemon alone, which keeps this server's own rows true at a store's API
    #[command(after_help = "\
The store is found at --api, else at the configuration's api.unix.

Examples:
  kith daemon --config /etc/kith/kith.toml
  kith daemon --api unix:/run/kith/kith.sock
  kith daemon setup-docker --dry-run
  kith daemon setup-host --dry-run")]
    Daemon(Box<DaemonAlone>),
    /// Run a nats-server, which finds its peers by DNS, and keep it running
    #[command(after_help = "\
nats-server 2.14 or later is taken from --nats-bin, NATS_SERVER_BIN, what scripts/setup has fetched, or PATH. The variables
NATS_STORE_DIR, NATS_MAX_FILE_STORE, NATS_MAX_MEM_STORE and NATS_APPEND_CONFIG stand for the keys nats.store_dir,
nats.max_file_store, nats.max_mem_store and nats.append_config.

Examples:
  kith nats --set nats.store_dir=/var/lib/nats
  kith nats --config /etc/kith/kith.toml
  kith nats status --json")]
    Nats(Box<NatsAlone>),
    /// Run presence alone, who is online, over NATS; or ask a node of it
    #[command(after_help = "\
A center or a leaf, by presence.role. The nats-server is found at presence.url: where it is a name, DNS says where.

Examples:
  kith presence --config /etc/kith/kith.toml
  kith presence --set presence.role=center --set presence.jwt_secret_file=/etc/kith/presence.secret
  kith presence set ann busy --secret-file /etc/kith/presence.secret
  kith presence who")]
    Presence(Box<PresenceAlone>),
    /// Run a whole cluster on loopback, for a first look
    #[command(after_help = "\
Node i listens on the given ports + i - 1; port 0 gives each node free ones.

Examples:
  kith dev
  kith dev --nodes 1 --dir ./data
  kith dev --nats
  kith dev --presence
  kith dev --empty --json --api 127.0.0.1:0 --dns 127.0.0.1:0 --gossip 127.0.0.1:0")]
    Dev(Dev),
    /// Found a cluster: its authority, and this server as its first
    #[command(after_help = "\
Makes the cluster's authority, this server's certificate and its configuration. Nothing that is there is overwritten.
The authority's key stays on this server alone, in DATA_DIR/authority: whoever has it says who belongs.

Examples:
  kith init --name fra-1
  kith init --cluster casa --advertise 192.0.2.1:31280 --json")]
    Init(Init),
    /// Make a token with which one more server joins
    #[command(after_help = "\
Run it on the server that has the authority's key, while Kith runs there. The token holds for 15 minutes, once, for this
name. It is a secret: who has it can be that server.

Examples:
  kith invite fra-2
  kith invite fra-2 --address fra-1.example.com:31280 --json")]
    Invite(Invite),
    /// Join a cluster with a token, as one more server
    #[command(after_help = "\
Makes this server's key, which never leaves it, asks for a certificate and writes the configuration. Nothing that is there
is overwritten; --again renews the certificate of a server that has one already.

Examples:
  kith join kith1.eyJub2RlIjoi…
  kith join - < token
  kith join --again kith1.eyJub2RlIjoi…")]
    Join(Join),
    /// The servers of the cluster: list them, drain one, remove one
    #[command(after_help = "Examples:\n  kith server ls\n  kith server drain fra-2\n  kith server remove fra-2")]
    Server(Server),
    /// Show what a node knows: members, lag, digest, DNS, parts
    #[command(after_help = "Examples:\n  kith status\n  kith status --json --api http://127.0.0.1:31222")]
    Status(Status),
    /// Look into each layer, here and toward each other server, and say what to do
    #[command(after_help = "\
Of this server: the store, its certificate, DNS, Docker, the daemon, alarms. Toward each other: its UDP port, gossip, the tunnel and its MTU. Run it
on both sides of what does not work. Exit code 1 if anything fails.

Examples:
  kith doctor
  kith doctor --json | jq 'select(.state == \"fails\")'")]
    Doctor(Doctor),
    /// List containers: this server's, or those of all
    #[command(after_help = "\
A container is listed by the daemon of its server once it is in Docker's network kith; --why tells of those that are not.

Examples:
  kith ps
  kith ps --all
  kith ps --why --json | jq 'select(.health == \"not listed\")'")]
    Ps(Ps),
    /// Say what will be deleted of servers that were removed, and when
    #[command(after_help = "Examples:\n  kith sweep --dry-run\n  kith sweep --dry-run --json")]
    Sweep(Sweep),
    /// Read: one SELECT
    #[command(after_help = "\
A PARAM is a number, null, true, false or \"text\" as in JSON; anything else is a text as it is.

Examples:
  kith query 'SELECT id, ip FROM containers'
  kith query 'SELECT id FROM containers WHERE service = ?' api --json")]
    Query(Sql),
    /// Write: one statement, one transaction
    #[command(after_help = "\
A PARAM is a number, null, true, false or \"text\" as in JSON; anything else is a text as it is.

Examples:
  kith exec \"INSERT INTO services (project, name) VALUES ('demo', 'web')\"
  kith exec 'UPDATE containers SET draining = ? WHERE id = ?' 1 0123456789ab
  kith exec --replicas 1 \"DELETE FROM services WHERE name = 'web'\"")]
    Exec(Exec),
    /// Follow a live query: its rows, then every change, as NDJSON
    #[command(after_help = "\
Lines: {\"columns\":[..]}, {\"row\":[id,[..]]}, {\"eoq\":{\"change_id\":n}}, {\"change\":[kind,id,[..],n]}.
When the store is away: {\"lost\":\"why\"}, then {\"resumed\":n}, or {\"reset\":{}} and the rows again.

Examples:
  kith watch 'SELECT id, ip, health_status FROM containers'
  kith watch 'SELECT name FROM services WHERE project = ?' casa | jq .change")]
    Watch(Follow),
    /// List the members of the cluster, as one node sees them
    #[command(after_help = "Examples:\n  kith members\n  kith members --watch\n  kith members --json | jq .state")]
    Members(Members),
    /// Ask a DNS server, as a container would
    #[command(after_help = "\
Examples:
  kith resolve casa-api.internal
  kith resolve _http._tcp.casa-api.internal SRV --server 127.0.0.1:5302
  kith resolve -x 10.210.129.10")]
    Resolve(Resolve),
    /// Explain a name: each instance, in or out of the answer, and by which rule
    #[command(after_help = "\
By the rows and members that the node at --api has, as its DNS server would answer.

Examples:
  kith why casa-api.internal
  kith why fra.casa-api.internal --json")]
    Why(Why),
    /// Show the busiest names of a DNS server
    #[command(after_help = "\
By the socket of the DNS server on this host, which counts while somebody looks. Of a busy server one in several answers is
looked at, for all of them.

Examples:
  kith top
  kith top --interval 10 --names 5 --count 6 --json")]
    Top(Top),
    /// The configuration: what is in force, what is wrong
    #[command(after_help = "\
Examples:
  kith config check --config /etc/kith/kith.toml
  kith config show --config kith.toml --set dns.listen=127.0.0.1:5300")]
    Config(ConfigArgs),
    /// The schema of a running node: what files would add to it, and adding it
    #[command(after_help = "\
A schema belongs to its node: apply the same files on each server, and name them in gossip.schema of its configuration,
so that a new server has them from the start. Only additions can be made: tables, columns that may be NULL or have a
DEFAULT, indexes.

Examples:
  kith schema diff /etc/kith/schema
  kith schema apply /etc/kith/schema/orders.sql")]
    Schema(SchemaArgs),
    /// Write a copy of a running node's store to a file
    #[command(after_help = "\
The copy is the store as of one moment; the node goes on meanwhile. Until it is whole it is FILE.part.

Examples:
  kith backup /var/backups/kith.db
  kith backup kith.db --force --json")]
    Backup(Backup),
    /// Make a backup the store of this server, which must not be running
    #[command(after_help = "\
The backup is checked first. The store becomes a site of its own; what its former self wrote since then comes from the
other servers, if there are any.

Examples:
  kith restore /var/backups/kith.db
  kith restore /var/backups/kith.db --force --config /etc/kith/kith.toml")]
    Restore(Restore),
    /// The store itself: whether it is sound
    #[command(after_help = "Example:\n  kith store verify")]
    Store(StoreArgs),
    /// Take Kith off this host: put back what it changed
    #[command(after_help = "\
Stop it first. Files that were changed get the text that they had before, or are left without what Kith put there; the firewall's
rules, Docker's network, the interface of the tunnels and what scripts/install put there go. The store, the certificate and the configuration stay, but for --purge. What is left is named.

Examples:
  kith uninstall --dry-run
  kith uninstall --apply
  kith uninstall --apply --purge")]
    Uninstall(Uninstall),
    /// Print a script that completes this command line in your shell
    #[command(after_help = "\
Examples:
  kith completions bash > /etc/bash_completion.d/kith
  kith completions zsh > \"${fpath[1]}/_kith\"
  kith completions fish > ~/.config/fish/completions/kith.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages of all commands into a folder
    #[command(after_help = "Example:\n  kith man /usr/local/share/man/man1")]
    Man {
        /// The folder; made if it is not there
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub(crate) struct Configured {
    /// The configuration file (KITH_CONFIG; default /etc/kith/kith.toml if there is one)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key, over file and environment; repeatable
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// A DNS server without a store beside it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DnsAlone {
    #[command(flatten)]
    pub(crate) configured: Configured,
    #[command(flatten)]
    pub(crate) store: Store,
    #[command(flatten)]
    pub(crate) plain: Plain,
    #[command(subcommand)]
    pub(crate) action: Option<DnsAction>,
}

/// A DNS server of zone files and of other servers' names, alone.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("plain").multiple(true).args(["zone_file", "forward"])))]
pub(crate) struct Plain {
    /// Serve the zone of this file (RFC 1035), which is read again when it changes; repeatable
    #[arg(long, value_name = "FILE", requires = "listen", conflicts_with_all = ["config", "set", "api", "token_file"])]
    pub(crate) zone_file: Vec<PathBuf>,
    /// Ask these servers for names below this suffix, and keep their answers; repeatable
    #[arg(long, value_name = "SUFFIX=ADDR", requires = "listen", conflicts_with_all = ["config", "set", "api", "token_file"])]
    pub(crate) forward: Vec<Split>,
    /// Where to answer, UDP and TCP, for zone files and --forward; repeatable
    #[arg(long, value_name = "ADDR", requires = "plain", value_parser = dns_listen)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where to answer over TLS as well, by custom at port 853; repeatable
    #[arg(long, value_name = "ADDR", requires_all = ["plain", "tls_cert", "tls_key"], value_parser = dns_listen)]
    pub(crate) tls_listen: Vec<SocketAddr>,
    /// The certificate for it and those that lead from it to an authority, PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_listen")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_listen")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Who may ask; default who is near; repeatable
    #[arg(long, value_name = "NET", requires = "plain")]
    pub(crate) allow: Vec<IpNet>,
    /// Where `kith top` and `kith dns trace` look in, a Unix socket
    #[arg(long, value_name = "PATH", requires = "plain")]
    pub(crate) socket: Option<PathBuf>,
    /// Where Prometheus finds /metrics
    #[arg(long, value_name = "ADDR", requires = "plain")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Threads that answer, for zone files and --forward; default one for each core
    #[arg(long, value_name = "N", requires = "plain")]
    pub(crate) threads: Option<NonZeroUsize>,
}

impl Plain {
    /// DNS over TLS, if it is asked for.
    pub(crate) fn tls(&self) -> Option<Tls> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(Tls { listen: self.tls_listen.clone(), cert, key })
    }

    /// Whether there is neither store nor configuration.
    pub(crate) fn is_asked_for(&self) -> bool {
        !self.zone_file.is_empty() || !self.forward.is_empty()
    }
}

/// How results are printed.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A node to look at.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// A statement to run.
#[derive(Debug, Args)]
pub(crate) struct Sql {
    /// The statement
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) sql: String,
    /// A value for each ? in it
    #[arg(value_name = "PARAM", allow_negative_numbers = true)]
    pub(crate) params: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// A statement that writes.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Wait until so many other servers have it on disk, for 10 s at most; it stands also where they have not
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) replicas: usize,
    #[command(flatten)]
    pub(crate) statement: Sql,
}

/// A statement to follow.
#[derive(Debug, Args)]
pub(crate) struct Follow {
    /// The SELECT
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) sql: String,
    /// A value for each ? in it
    #[arg(value_name = "PARAM", allow_negative_numbers = true)]
    pub(crate) params: Vec<String>,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// Which members.
#[derive(Debug, Args)]
pub(crate) struct Members {
    /// Go on, with a line for each change
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// What to ask.
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// The name, or with -x an address
    pub(crate) name: String,
    /// The record type
    #[arg(value_name = "TYPE", default_value = "A")]
    pub(crate) record_type: String,
    /// Ask for the name of an address (PTR)
    #[arg(short = 'x', conflicts_with = "record_type")]
    pub(crate) reverse: bool,
    /// The server: ADDRESS or ADDRESS:PORT (KITH_RESOLVER; default 127.0.0.1:53)
    #[arg(long, value_name = "ADDR")]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// A name to explain.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// The name, whole
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// A cluster to play with.
#[derive(Debug, Clone, Args)]
pub(crate) struct Dev {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) nodes: u8,
    /// Keep the data here; else it is gone at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Where the API of the first node listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:31220")]
    pub(crate) api: SocketAddr,
    /// Where the DNS of the first node listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5300")]
    pub(crate) dns: SocketAddr,
    /// Where the gossip of the first node listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:31280")]
    pub(crate) gossip: SocketAddr,
    /// No sample services
    #[arg(long)]
    pub(crate) empty: bool,
    #[command(flatten)]
    pub(crate) beside: Beside,
    /// Say where everything listens in one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a cluster to play with has besides.
#[derive(Debug, Clone, Args)]
pub(crate) struct Beside {
    /// Also three NATS servers, on 127.0.0.11 to 13, which find each other by the cluster's DNS
    #[arg(long)]
    pub(crate) nats: bool,
    /// Also presence, on port 8080 of the same addresses: these NATS servers are then a center and two leaves
    #[arg(long)]
    pub(crate) presence: bool,
}

/// About the schema.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    #[command(subcommand)]
    pub(crate) action: SchemaAction,
}

/// What about it.
#[derive(Debug, Subcommand)]
pub(crate) enum SchemaAction {
    /// Say what would be added, or why it would be refused; nothing is changed
    #[command(after_help = "Example:\n  kith schema diff orders.sql")]
    Diff(SchemaFiles),
    /// Add it, all or nothing
    #[command(after_help = "Example:\n  kith schema apply orders.sql")]
    Apply(SchemaFiles),
}

/// Which schema, and where.
#[derive(Debug, Args)]
pub(crate) struct SchemaFiles {
    /// Files of CREATE TABLE and CREATE INDEX, or folders of *.sql
    #[arg(value_name = "FILE", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// About the configuration.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) action: ConfigAction,
}

/// What about it.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Print what is in force, and where each value came from
    #[command(after_help = "Example:\n  kith config show --config /etc/kith/kith.toml")]
    Show {
        #[command(flatten)]
        configured: Configured,
        #[command(flatten)]
        output: Output,
    },
    /// Say all that is wrong with it; exit code 78 if anything is
    #[command(after_help = "Example:\n  kith config check --config /etc/kith/kith.toml")]
    Check {
        #[command(flatten)]
        configured: Configured,
    },
}
