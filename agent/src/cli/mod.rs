//! The command line: a file for each subcommand.

mod explain;
mod plan;
mod release;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    config::{LogFormat, Options, Settings},
    observe::sample::Seed,
    requests::{Request, Wish},
    text::chain,
    units::DiskName,
};

/// Turns newly attached, provably blank disks into mounted storage.
#[derive(Debug, Parser)]
#[command(name = "disk-discovery", version, about, max_term_width = 100)]
struct Cli {
    /// YAML file with options; flags and environment variables win over it
    #[arg(
        long,
        global = true,
        env = "DISK_DISCOVERY_CONFIG",
        value_name = "FILE"
    )]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look, decide, provision and serve health until stopped
    Run {
        #[command(flatten)]
        options: Options,
    },
    /// Show what would be done with each device; writes nothing
    Plan {
        /// Form of the output
        #[arg(short, long, value_enum, default_value = "table")]
        output: plan::Output,
        #[command(flatten)]
        options: Options,
    },
    /// Show what is known of one device, why it is judged so, and what to do; writes nothing
    Explain {
        /// Kernel name, device node, or a link to it: sdb, /dev/sdb, /dev/disk/by-id/...
        device: PathBuf,
        /// Form of the output
        #[arg(short, long, value_enum, default_value = "text")]
        output: explain::Output,
        /// Repeat a proof: take the sample where this seed says, as 16 hexadecimal digits
        #[arg(long, value_name = "SEED")]
        seed: Option<Seed>,
        #[command(flatten)]
        options: Options,
    },
    /// Ask the agent of this host to let go of a disk, and follow that until it is unmounted; nothing on it is changed
    Release {
        /// Name of the disk, as it is mounted: sdb1
        name: DiskName,
        /// Take it back: call the release off, or mount it again
        #[arg(long)]
        cancel: bool,
        /// Release it although Longhorn has replicas on it, or may have, where the agent does not
        /// ask Longhorn; they stay on the disk, and are lost to Longhorn with it
        #[arg(long, conflicts_with = "cancel")]
        even_with_replicas: bool,
        /// Form of the output
        #[arg(short, long, value_enum, default_value = "text")]
        output: release::Output,
        #[command(flatten)]
        options: Options,
    },
}

/// Exit code for options that cannot be used, as clap has it.
const USAGE: u8 = 2;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return show(&error),
    };
    let (options, command): (Options, Box<dyn FnOnce(Settings) -> ExitCode>) = match cli.command {
        Command::Run { options } => (options, Box::new(run::run)),
        Command::Plan { output, options } => (
            options,
            Box::new(move |settings| plan::plan(settings, output)),
        ),
        Command::Explain {
            device,
            output,
            seed,
            options,
        } => (
            options,
            Box::new(move |settings| explain::explain(settings, &device, output, seed)),
        ),
        Command::Release {
            name,
            cancel,
            even_with_replicas,
            output,
            options,
        } => {
            let wish = if cancel { Wish::Cancel } else { Wish::Release };
            let request = Request {
                name,
                wish,
                even_with_replicas,
            };
            (
                options,
                Box::new(move |settings| release::release(&settings, &request, output)),
            )
        }
    };
    let file = cli
        .config
        .map_or_else(|| Ok(Options::default()), |path| Options::from_file(&path));
    match file.and_then(|file| options.or(file).into_settings()) {
        Ok(settings) => command(settings),
        Err(error) => fail(USAGE, &error),
    }
}

/// Help and version as clap writes them; an error as one line.
fn show(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is the reader's business.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprintln!(
            "disk-discovery: no subcommand given; there are run, plan, explain and release, see --help"
        );
        return ExitCode::from(USAGE);
    }
    let text = error.to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("For more"))
        .collect();
    let line = words.join("; ").replace(":; ", ": ");
    eprintln!("disk-discovery: {}", line.trim_start_matches("error: "));
    ExitCode::from(USAGE)
}

/// Says what went wrong in one line.
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("disk-discovery: {}", chain(error));
    ExitCode::from(code)
}

/// Prints to stdout. A reader that has seen enough is no failure: head and
/// less close the pipe.
fn print(text: &str) -> ExitCode {
    use std::io::{ErrorKind, Write};
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

/// Sends log lines to stderr.
fn log_to_stderr(settings: &Settings) {
    use tracing_subscriber::{filter::Targets, prelude::*};
    // Checked when the settings were made.
    let filter: Targets = settings.log.parse().unwrap_or_default();
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    match settings.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
}
