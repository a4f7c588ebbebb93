//! `kith completions` and `kith man`: what the command line knows of itself, in other forms.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Prints the script.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kith", &mut script);
    Out::new().line(String::from_utf8_lossy(&script).trim_end())
}

/// Writes the pages and says how many.
pub(crate) fn man(folder: &Path) -> Result<(), Failure> {
    let written = || -> std::io::Result<usize> {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Cli::command(), folder)?;
        Ok(folder.read_dir()?.filter_map(Result::ok).filter(|file| is_page(&file.file_name())).count())
    };
    let pages = written()
        .map_err(|e| Failure::new(Exit::Io, e).context(format!("cannot write man pages to {}", folder.display())))?;
    Out::new().line(format!("{pages} pages in {}", folder.display()))
}

fn is_page(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("kith") && name.ends_with(".1")
}
