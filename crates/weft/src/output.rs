//! How results are shown: tables for people, JSON for machines.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

/// Form of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// The option that every listing has.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// A text that does nothing to a terminal: names come from whoever wrote a manifest.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints rows under a header, each column as wide as its widest cell. A cell does nothing to the terminal, nor to its row.
pub fn print_table<const N: usize>(header: [&str; N], rows: &[[String; N]]) {
    print!("{}", table(header, rows));
}

fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| printable(cell).replace('\n', "\\n"))).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    let header = line(&header.map(str::to_owned));
    std::iter::once(header).chain(rows.iter().map(|row| line(row))).map(|line| line + "\n").collect()
}

/// An age as kubectl writes it: `45s`, `12m`, `3h`, `2d`.
pub fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_cell_does_nothing_to_the_terminal() {
        let name = "a\u{1b}[2J\nb\u{9b}c\t".to_owned();
        let rows = [[name, "x".to_owned()], ["short".to_owned(), "ü".to_owned()]];
        let lines = [
            "NAME                     STATE",
            r"a\u{1b}[2J\nb\u{9b}c\t   x",
            "short                    ü",
            "",
        ];
        assert_eq!(table(["NAME", "STATE"], &rows), lines.join("\n"));
    }
}
