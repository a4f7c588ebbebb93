//! What `--help` says of making servers of hosts, whole: it is the first thing that an operator reads.

use std::process::{Command, Stdio};

/// The help of a command.
fn help(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    let output = command.args(words).arg("--help").env("COLUMNS", "100").stdin(Stdio::null()).output();
    String::from_utf8(output.expect("kith can be started").stdout).expect("stdout is UTF-8")
}

#[test]
fn the_help_of_founding_is_what_it_was() {
    insta::assert_snapshot!(help(&["init"]), @r#"
    Found a cluster: its authority, and this server as its first

    Usage: kith init [OPTIONS]

    Options:
          --cluster <NAME>       The cluster's name [default: kith]
          --log <LEVEL>          What is logged: error, warn, info, debug, trace, or by module
                                 (KITH_LOG)
          --log-format <FORMAT>  How it is logged (KITH_LOG_FORMAT; default text) [possible values:
                                 text, json]
          --name <NAME>          This server's name; default the host's
          --cidr <A.B.0.0/16>    The range of all servers; server N has the Nth /24 of it [default:
                                 10.210.0.0/16]
          --config <FILE>        The configuration that is written [default: /etc/kith/kith.toml]
          --data-dir <DIR>       Where the store, the certificate and its key are kept [default:
                                 /var/lib/kith]
          --listen <ADDR>        The UDP address for the other servers [default: 0.0.0.0:31280]
          --advertise <ADDR>     Where the other servers reach this one, if not at the address that it
                                 sends from
          --region <CODE>        Region code, for {region}.APP names
          --json                 Print JSON
      -h, --help                 Print help

    Makes the cluster's authority, this server's certificate and its configuration. Nothing that is
    there is overwritten.
    The authority's key stays on this server alone, in DATA_DIR/authority: whoever has it says who
    belongs.

    Examples:
      kith init --name fra-1
      kith init --cluster casa --advertise 192.0.2.1:31280 --json
    "#);
}

#[test]
fn the_help_of_inviting_is_what_it_was() {
    insta::assert_snapshot!(help(&["invite"]), @r#"
    Make a token with which one more server joins

    Usage: kith invite [OPTIONS] <NAME>

    Arguments:
      <NAME>  The new server's name, which is to be in its certificate

    Options:
          --address <ADDR>           Where the new server reaches this one, HOST:PORT; repeatable
                                     (default: where the other servers do)
          --log <LEVEL>              What is logged: error, warn, info, debug, trace, or by module
                                     (KITH_LOG)
          --config <FILE>            The configuration file (KITH_CONFIG; default /etc/kith/kith.toml if
                                     there is one)
          --log-format <FORMAT>      How it is logged (KITH_LOG_FORMAT; default text) [possible values:
                                     text, json]
          --set <SECTION.KEY=VALUE>  Set one key, over file and environment; repeatable
          --json                     Print JSON
      -h, --help                     Print help

    Run it on the server that has the authority's key, while Kith runs there. The token holds for 15
    minutes, once, for this
    name. It is a secret: who has it can be that server.

    Examples:
      kith invite fra-2
      kith invite fra-2 --address fra-1.example.com:31280 --json
    "#);
}

#[test]
fn the_help_of_joining_is_what_it_was() {
    insta::assert_snapshot!(help(&["join"]), @r#"
    Join a cluster with a token, as one more server

    Usage: kith join [OPTIONS] <TOKEN>

    Arguments:
      <TOKEN>  What `kith invite` has printed; - to read it from stdin, where no list of processes shows
               it

    Options:
          --again                This server has joined before: only its certificate is made anew, for
                                 the key that is here
          --log <LEVEL>          What is logged: error, warn, info, debug, trace, or by module
                                 (KITH_LOG)
          --config <FILE>        The configuration that is written [default: /etc/kith/kith.toml]
          --log-format <FORMAT>  How it is logged (KITH_LOG_FORMAT; default text) [possible values:
                                 text, json]
          --data-dir <DIR>       Where the store, the certificate and its key are kept [default:
                                 /var/lib/kith]
          --listen <ADDR>        The UDP address for the other servers [default: 0.0.0.0:31280]
          --advertise <ADDR>     Where the other servers reach this one, if not at the address that it
                                 sends from
          --region <CODE>        Region code, for {region}.APP names
          --json                 Print JSON
      -h, --help                 Print help

    Makes this server's key, which never leaves it, asks for a certificate and writes the configuration.
    Nothing that is there
    is overwritten; --again renews the certificate of a server that has one already.

    Examples:
      kith join kith1.eyJub2RlIjoi…
      kith join - < token
      kith join --again kith1.eyJub2RlIjoi…
    "#);
}

#[test]
fn the_help_of_removing_is_what_it_was() {
    insta::assert_snapshot!(help(&["server", "remove"]), @r#"
    Remove a server: all others refuse it by name from then on

    Usage: kith server remove [OPTIONS] <ID>

    Arguments:
      <ID>  The server's name

    Options:
          --log <LEVEL>          What is logged: error, warn, info, debug, trace, or by module
                                 (KITH_LOG)
          --undo                 Take it back
          --log-format <FORMAT>  How it is logged (KITH_LOG_FORMAT; default text) [possible values:
                                 text, json]
          --sure                 Its peer may go beside any number of others
          --json                 Print JSON
          --api <ENDPOINT>       Where the API is: http://HOST:PORT or unix:/PATH (KITH_API; default
                                 http://127.0.0.1:31220)
          --token-file <FILE>    File that holds the API's token (KITH_TOKEN_FILE)
      -h, --help                 Print help

    Run it on any server that stays. Its connections are closed, and it is told why. Its rows stay, and
    so does its number.
    Where daemons keep tunnels, a fifth of all peers goes in ten minutes at most, lest a mistake take
    them all; with --sure this one goes beside any number of others, also if it was removed before.

    Examples:
      kith server remove fra-2
      kith server remove fra-2 --undo
      kith server remove fra-2 --sure
    "#);
}
