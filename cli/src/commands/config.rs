//! `kith config show` and `kith config check`.

use crate::args::{ConfigAction, Configured};
use crate::config::{Config, Purpose, Sources};
use crate::exit::Failure;
use crate::out::Out;

/// Shows or checks.
pub(crate) fn run(action: &ConfigAction) -> Result<(), Failure> {
    let mut out = Out::new();
    match action {
        ConfigAction::Show { configured, output } if output.json => {
            out.json(&load(configured, Purpose::Agent)?.show_json())
        }
        ConfigAction::Show { configured, .. } => out.line(load(configured, Purpose::Agent)?.show()),
        ConfigAction::Check { configured } => load(configured, Purpose::Agent).and_then(|_| out.line("ok")),
    }
}

/// The configuration of this process, or all that is wrong with it.
pub(crate) fn load(configured: &Configured, purpose: Purpose) -> Result<Config, Failure> {
    let file = configured.config.clone().or_else(|| std::env::var_os("KITH_CONFIG").map(Into::into));
    let sources = Sources::gather(file.as_deref(), &configured.set)?;
    Ok(Config::build(&sources, purpose)?)
}
