//! The tables of settings in docs/configuration.md are those of the command line.

use clap::{Arg, CommandFactory as _};

use super::Cli;

const DOCUMENT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md"));

/// The rows of the first table below a heading: their cells, without the markup of code.
fn table(heading: &str) -> Vec<Vec<String>> {
    let lines = DOCUMENT.lines().skip_while(|line| *line != heading);
    let rows =
        lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let row = row.replace("\\|", "\u{0}");
        let row = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{0}', "|"));
        row.collect::<Vec<_>>()
    };
    rows.skip(2).map(cells).collect()
}

fn flags(command: &clap::Command) -> Vec<&Arg> {
    let is_own =
        |arg: &&Arg| arg.get_long().is_some_and(|long| !["help", "version"].contains(&long));
    command.get_arguments().filter(is_own).collect()
}

/// The first cells of a flag's row; the default if clap knows it.
fn row(arg: &Arg) -> (String, String, Option<String>) {
    let value = arg.get_action().takes_values().then(|| {
        let names = arg.get_value_names().unwrap_or_default();
        names.iter().fold(String::new(), |all, name| all + " " + name)
    });
    let flag = format!("`--{}{}`", arg.get_long().unwrap(), value.unwrap_or_default());
    let variable = format!("`{}`", arg.get_env().unwrap().to_str().unwrap());
    let default = arg.get_default_values().first().map(|value| value.to_str().unwrap());
    let default = match default {
        _ if arg.is_required_set() => Some("required".to_owned()),
        _ if !arg.get_action().takes_values() => Some("off".to_owned()),
        default => default.map(|value| format!("`{value}`")),
    };
    (flag, variable, default)
}

#[test]
fn every_setting_of_run_is_in_the_table_with_its_variable_and_default() {
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").unwrap();
    let rows = table("## Settings of the agent");
    let expect: Vec<_> = flags(run).into_iter().map(row).collect();
    let written: Vec<_> = rows.iter().map(|row| row[0].clone()).collect();
    let mut known: Vec<_> = expect.iter().map(|(flag, ..)| flag.clone()).collect();
    let mut sorted = written.clone();
    known.sort();
    sorted.sort();
    assert_eq!(sorted, known);
    for (flag, variable, default) in expect {
        let row = rows.iter().find(|row| row[0] == flag).unwrap();
        assert_eq!(row[1], variable, "{flag}");
        match default {
            Some(default) => assert_eq!(row[2], default, "{flag}"),
            None => assert!(!row[2].is_empty(), "{flag} has a default that clap does not know"),
        }
        assert!(row[3].ends_with('.'), "{flag} has no meaning: {row:?}");
    }
}

#[test]
fn every_command_is_in_the_table_with_its_flags() {
    let mut cli = Cli::command();
    cli.build();
    let rows = table("## Other commands");
    let mut expect = Vec::new();
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        let below: Vec<_> =
            command.get_subcommands().filter(|command| command.get_name() != "help").collect();
        let name = format!("mesh-agent {}", command.get_name());
        if below.is_empty() {
            expect.push((name, command));
        } else {
            let name = |below: &clap::Command| format!("{name} {}", below.get_name());
            expect.extend(below.into_iter().map(|below| (name(below), below)));
        }
    }
    for (name, command) in &expect {
        let row = rows.iter().find(|row| row[0] == format!("`{name}`"));
        let row = row.unwrap_or_else(|| panic!("{name} is not in the table"));
        let flags = flags(command)
            .iter()
            .map(|arg| format!("`--{}`", arg.get_long().unwrap()))
            .collect::<Vec<_>>();
        if name != "mesh-agent run" {
            assert_eq!(row[1], flags.join(", "), "{name}");
        }
    }
    assert_eq!(rows.len(), expect.len());
}
