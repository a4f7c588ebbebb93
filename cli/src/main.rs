//! Kith's one binary: parse, wire the parts, run, exit.
//!
//! [`args`] is the command line as typed, [`config`] the configuration. A command is either a question to a running node
//! ([`commands`], by the API's client), the making of a server ([`enrol`]), or a node that runs ([`agent`] from its [`parts`], [`dev`] from several agents).
//! [`feed`] joins the store's subscriptions into what DNS reads. [`exit`] says how the process ends.

mod args;
mod config;

mod commands;
mod enrol;

mod agent;
mod feed;
mod parts;

mod dev;

mod exit;
mod log;
mod memory;
mod modes;
mod notify;
mod out;
mod privilege;
mod retry;
mod stop;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kith_gossip_client::{Client, Endpoint};
use tokio_util::sync::CancellationToken;

use args::{Cli, Command, Configured, DnsAction, DnsAlone, NatsAlone, Plain, PresenceAlone, Store};
use config::{Config, Purpose};
use exit::{Exit, Failure};
use notify::Notifier;
use parts::Part;
use parts::daemon::DaemonPart;
use parts::dns::{DNS_SOCKET, DnsPart, Source};
use parts::gossip::GossipPart;
use parts::nats::NatsPart;
use parts::presence::PresencePart;
use stop::Signals;

/// What may still hold a thread when all parts are stopped is not waited for longer than this.
const LEAVE: Duration = Duration::from_millis(100);

/// Threads of a runner of nats-server alone, or of a question to it: it waits for the most part, and what each thread of a host of many
/// cores holds is memory that its nats-server could have. With two of them one that is busy keeps nobody from answering about health.
const NATS_THREADS: usize = 2;

fn main() -> ExitCode {
    memory::share();
    match start(Cli::parse()) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            if let Some(report) = failure.report() {
                // Nobody reads stderr: then the code alone has to tell.
                drop(std::io::stderr().write_all(report.as_bytes()));
            }
            failure.exit().into()
        }
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    start_log(&cli)?;
    if matches!(&cli.command, Command::Dns(alone) if alone.action.is_none()) {
        privilege::keep_low_ports()?;
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    match &cli.command {
        Command::Dns(alone) => {
            if let Some(threads) = alone.plain.threads {
                builder.worker_threads(threads.get());
            }
        }
        Command::Nats(_) => {
            builder.worker_threads(NATS_THREADS);
        }
        _ => {}
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Software, e).context("cannot start the runtime"))?;
    let result = runtime.block_on(run(cli));
    runtime.shutdown_timeout(LEAVE);
    result
}

fn start_log(cli: &Cli) -> Result<(), Failure> {
    let quiet = match cli.command {
        Command::Dns(ref alone) if alone.action.is_some() => "warn",
        Command::Nats(ref alone) if alone.action.is_some() => "warn",
        Command::Presence(ref alone) if alone.action.is_some() => "warn",
        Command::Agent(_)
        | Command::Gossip(_)
        | Command::Dns(_)
        | Command::Daemon(_)
        | Command::Nats(_)
        | Command::Presence(_) => "info",
        _ => "warn",
    };
    let filter = cli.global.log.clone().or_else(|| std::env::var("KITH_LOG").ok());
    let format = match (cli.global.log_format, std::env::var("KITH_LOG_FORMAT").as_deref()) {
        (Some(format), _) => format,
        (None, Ok("json")) => log::Format::Json,
        (None, Ok("text") | Err(_)) => log::Format::Text,
        (None, Ok(other)) => {
            return Err(Failure::message(Exit::Usage, format!("KITH_LOG_FORMAT: `{other}` is neither text nor json")));
        }
    };
    log::start(filter.as_deref().unwrap_or(quiet), format)
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Agent(configured) => node(&configured, Purpose::Agent, None).await,
        Command::Gossip(configured) => node(&configured, Purpose::Gossip, None).await,
        Command::Dns(alone) => dns(&alone).await,
        Command::Daemon(alone) => match &alone.action {
            Some(action) => commands::setup(action).await,
            None => node(&alone.configured, Purpose::Daemon, Some(&alone.store)).await,
        },
        Command::Nats(alone) => match &alone.action {
            Some(action) => commands::nats(action).await,
            None => nats(&alone).await,
        },
        Command::Presence(alone) => presence(&alone).await,
        Command::Dev(args) => {
            let (signals, token) = (Signals::catch()?, CancellationToken::new());
            signals.during(&token, dev::run(&args, token.clone())).await
        }
        Command::Init(args) => enrol::init(&args),
        Command::Invite(args) => enrol::invite(&args).await,
        Command::Join(args) => enrol::join(&args).await,
        Command::Server(args) => commands::server(&args.action).await,
        Command::Status(args) => commands::status(&args.store.client()?, &args.output).await,
        Command::Doctor(args) => commands::doctor(&args.store.client()?, &args).await,
        Command::Ps(args) => commands::ps(&args.store.client()?, &args).await,
        Command::Sweep(args) => commands::sweep(&args.store.client()?, &args).await,
        Command::Query(args) => commands::query(&args.store.client()?, &args).await,
        Command::Exec(args) => commands::exec(&args.statement.store.client()?, &args).await,
        Command::Watch(args) => commands::watch(&args.store.client()?, &args).await,
        Command::Members(args) => commands::members(&args.store.client()?, &args).await,
        Command::Resolve(args) => commands::resolve(&args).await,
        Command::Why(args) => commands::why(&args.store.client()?, &args).await,
        Command::Top(args) => commands::top(&args).await,
        Command::Config(args) => commands::config(&args.action),
        Command::Schema(args) => commands::schema(&args.action).await,
        Command::Backup(args) => commands::backup(&args).await,
        Command::Restore(args) => commands::restore(&args),
        Command::Store(args) => commands::store(&args.action).await,
        Command::Uninstall(args) => commands::uninstall(&args).await,
        Command::Completions { shell } => commands::completions(shell),
        Command::Man { folder } => commands::man(&folder),
    }
}

/// Runs a DNS server alone, or looks into one that runs.
async fn dns(alone: &DnsAlone) -> Result<(), Failure> {
    match &alone.action {
        Some(DnsAction::Trace(args)) => commands::trace(args).await,
        None if alone.plain.is_asked_for() => plain(&alone.plain).await,
        None => node(&alone.configured, Purpose::Dns, Some(&alone.store)).await,
    }
}

/// Runs nats-server alone. It asks no store.
async fn nats(alone: &NatsAlone) -> Result<(), Failure> {
    let (signals, token) = (Signals::catch()?, CancellationToken::new());
    let config = commands::load(&alone.configured, Purpose::Nats)?;
    let mut runner = config.nats.runner;
    runner.binary = alone.nats_bin.clone().or(runner.binary);
    let run = async {
        let agent = agent::Agent::build(vec![Box::new(NatsPart::new(runner))], None).await?;
        Notifier::from_environment().during(&token, agent.run(token.clone())).await
    };
    signals.during(&token, run).await
}

/// Runs presence alone, or asks a node of it.
async fn presence(alone: &PresenceAlone) -> Result<(), Failure> {
    match &alone.action {
        Some(action) => commands::presence(action).await,
        None => node(&legacy(alone)?, Purpose::Presence, None).await,
    }
}

/// The configuration that was named, under what an ancestor's file says.
fn legacy(alone: &PresenceAlone) -> Result<Configured, Failure> {
    let mut configured = alone.configured.clone();
    if let Some(path) = &alone.legacy_config {
        let text =
            std::fs::read_to_string(path).map_err(|e| Failure::new(Exit::Io, e).context(path.display().to_string()))?;
        let read = config::legacy::read(&text, path.parent().unwrap_or(std::path::Path::new(".")))?;
        for line in read.told {
            tracing::warn!(file = %path.display(), "{line}");
        }
        configured.set.splice(0..0, read.set);
    }
    Ok(configured)
}

/// Runs the parts of this node that are wanted, until a signal.
async fn node(configured: &Configured, purpose: Purpose, named: Option<&Store>) -> Result<(), Failure> {
    let (signals, token) = (Signals::catch()?, CancellationToken::new());
    let config = commands::load(configured, purpose)?;
    let client = store(&config, named)?;
    let mut parts: Vec<Box<dyn Part>> = Vec::new();
    if purpose == Purpose::Gossip || (purpose == Purpose::Agent && config.gossip.enabled) {
        parts.push(Box::new(GossipPart::new(parts::gossip::config(&config)?)));
    }
    if purpose == Purpose::Dns || (purpose == Purpose::Agent && config.dns.enabled) {
        let dns = DnsPart::new(parts::dns::config(&config), Source::Store(client.clone()));
        parts.push(Box::new(dns.looked_into(Some(config.node.data_dir.join(DNS_SOCKET)), config.dns.metrics)));
    }
    if purpose == Purpose::Daemon || (purpose == Purpose::Agent && config.daemon.enabled) {
        parts.push(Box::new(DaemonPart::new(parts::daemon::config(&config)?, client.clone())));
    }
    if purpose == Purpose::Agent && config.nats.enabled {
        parts.push(Box::new(NatsPart::new(config.nats.runner.clone())));
    }
    if purpose == Purpose::Presence || (purpose == Purpose::Agent && config.presence.enabled) {
        parts.push(Box::new(PresencePart::new(parts::presence::config(&config))));
    }
    // Of DNS or the daemon alone there is one part, whose own status is reported; the store's process speaks of the parts
    // beside it.
    let reported = matches!(purpose, Purpose::Agent | Purpose::Gossip).then_some(client);
    let run = async {
        let agent = agent::Agent::build(parts, reported).await?;
        Notifier::from_environment().during(&token, agent.run(token.clone())).await
    };
    signals.during(&token, run).await
}

/// Answers from zone files alone, until a signal.
async fn plain(plain: &Plain) -> Result<(), Failure> {
    let (signals, token) = (Signals::catch()?, CancellationToken::new());
    let parts: Vec<Box<dyn Part>> = vec![Box::new(
        DnsPart::new(parts::dns::plain(plain), Source::Files).looked_into(plain.socket.clone(), plain.metrics),
    )];
    let run = async {
        let agent = agent::Agent::build(parts, None).await?;
        Notifier::from_environment().during(&token, agent.run(token.clone())).await
    };
    signals.during(&token, run).await
}

/// The store that DNS is fed from: the one that was named, or this node's own by its socket.
fn store(config: &Config, named: Option<&Store>) -> Result<Client, Failure> {
    let endpoint = named.map(Store::endpoint).transpose()?.flatten();
    let token = named.and_then(Store::token_file).or_else(|| config.api.token_file.clone());
    let token = token.as_deref().map(parts::gossip::token).transpose()?;
    Ok(Client::new(endpoint.unwrap_or_else(|| Endpoint::unix(&config.api.unix)), token)?)
}

impl Store {
    /// The endpoint that was named.
    fn endpoint(&self) -> Result<Option<Endpoint>, Failure> {
        match (&self.api, std::env::var("KITH_API")) {
            (Some(endpoint), _) => Ok(Some(endpoint.clone())),
            (None, Ok(text)) => {
                let wrong = |e| Failure::new(Exit::Usage, anyhow::Error::new(e)).context("KITH_API");
                text.parse().map(Some).map_err(wrong)
            }
            (None, Err(_)) => Ok(None),
        }
    }

    fn token_file(&self) -> Option<PathBuf> {
        self.token_file.clone().or_else(|| std::env::var_os("KITH_TOKEN_FILE").map(PathBuf::from))
    }

    /// A client of the node that was named, or of the one on this host.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let endpoint = match self.endpoint()? {
            Some(endpoint) => endpoint,
            None => args::DEFAULT_API.parse().expect("the default is an endpoint"),
        };
        let token = self.token_file().as_deref().map(parts::gossip::token).transpose()?;
        Ok(Client::new(endpoint, token)?)
    }
}
