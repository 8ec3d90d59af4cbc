//! `hm-hub node` and `hm-hub command`: what an operator does with nodes on the command line of the hub.

use std::fmt::Write;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::hub::cli::client::RestClient;
use crate::util::error::Error;
use crate::util::percent;
use crate::util::text::{escape_for_terminal, escape_lines_for_terminal};

/// Nodes in one answer of the hub.
const PAGE: usize = 10_000;
/// Interval between checks whether a command is done.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// One line for each node, sorted by id.
pub fn list(hub: &RestClient) -> Result<String, Error> {
    let mut rows =
        vec![["NODE", "STATUS", "HOSTNAME", "GROUP", "AGENT", "GPUS"].map(str::to_owned)];
    let mut nodes: Vec<[String; 6]> = all(hub)?
        .iter()
        .map(|node| {
            let agent = &node["agent"];
            let models: Vec<&str> = agent["gpu_models"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            // A node without a registration over Core has no host name there.
            let hostname = agent["hostname"].as_str().or(node["hostname"].as_str());
            [
                node["node_id"].as_str(),
                node["status"].as_str(),
                hostname,
                node["group"].as_str(),
                agent["agent_version"].as_str(),
                Some(models.join(", ").as_str()),
            ]
            .map(|text| {
                escape_for_terminal(text.filter(|text| !text.is_empty()).unwrap_or("-"))
                    .into_owned()
            })
        })
        .collect();
    nodes.sort_unstable();
    rows.extend(nodes);
    Ok(table(&rows))
}

/// What the hub knows of a node, as JSON.
pub fn show(hub: &RestClient, node_id: &str) -> Result<String, Error> {
    let node = hub.call("GET", &format!("nodes/{}", percent::encode(node_id)), "")?;
    Ok(escape_lines_for_terminal(&format!("{node:#}\n")))
}

pub fn forget(hub: &RestClient, node_id: &str) -> Result<(), Error> {
    hub.call("DELETE", &format!("nodes/{}", percent::encode(node_id)), "").map(drop)
}

/// The nodes of a group.
pub fn of_group(hub: &RestClient, group: &str) -> Result<Vec<String>, Error> {
    let nodes = all(hub)?;
    let of_group = nodes.iter().filter(|node| node["group"] == group);
    let mut ids: Vec<String> =
        of_group.filter_map(|node| node["node_id"].as_str().map(str::to_owned)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Runs a command on nodes and waits for all results. Returns a report, and whether every one has succeeded.
pub fn run(
    hub: &RestClient,
    node_ids: &[String],
    words: &[String],
    timeout_s: u32,
) -> Result<(String, bool), Error> {
    let body = json!({"command_text": join(words), "timeout": timeout_s}).to_string();
    let submit = |node_id: &String| {
        let path = format!("nodes/{}/commands", percent::encode(node_id));
        let accepted = hub.call("POST", &path, &body)?;
        Ok(accepted["command_id"].as_str().unwrap_or_default().to_owned())
    };
    // A node that has been forgotten meanwhile does not keep the others from running it.
    let submitted: Vec<Result<String, Error>> = node_ids.iter().map(submit).collect();
    let (mut report, mut succeeded) = (String::new(), 0);
    for (node_id, submitted) in node_ids.iter().zip(submitted) {
        let result = submitted.and_then(|command_id| wait(hub, &command_id));
        succeeded += usize::from(add_result(&mut report, node_id, &result));
    }
    if node_ids.len() != 1 {
        let _ = writeln!(report, "{succeeded} of {} nodes succeeded", node_ids.len());
    }
    Ok((report, succeeded == node_ids.len()))
}

/// Waits until the hub has a result, or marks the command as timed out.
fn wait(hub: &RestClient, command_id: &str) -> Result<Value, Error> {
    loop {
        let found = hub.call("GET", &format!("commands/{}", percent::encode(command_id)), "")?;
        match found["command"]["status"].as_str() {
            Some("pending" | "running") => sleep(POLL_INTERVAL),
            _ => return Ok(found),
        }
    }
}

/// Adds the result of a node to the report. Returns whether it is a success.
fn add_result(report: &mut String, node_id: &str, result: &Result<Value, Error>) -> bool {
    let node_id = escape_for_terminal(node_id);
    let (status, output) = match result {
        Ok(found) => {
            let exit = found["result"]["exit_code"].as_i64();
            let exit = exit.map_or(String::new(), |code| format!(" (exit code {code})"));
            let status = found["command"]["status"].as_str().unwrap_or_default();
            let output =
                ["stdout", "stderr"].map(|name| found["result"][name].as_str().unwrap_or_default());
            (format!("{status}{exit}"), output.concat())
        }
        Err(error) => (error.to_string(), String::new()),
    };
    let _ = writeln!(report, "{node_id}: {}", escape_for_terminal(&status));
    report.push_str(&escape_lines_for_terminal(&output));
    if !report.ends_with('\n') {
        report.push('\n');
    }
    matches!(result, Ok(found) if found["command"]["status"] == "success")
}

fn all(hub: &RestClient) -> Result<Vec<Value>, Error> {
    let mut nodes = Vec::new();
    loop {
        let path = format!("nodes?limit={PAGE}&offset={}", nodes.len());
        let mut page = hub.call("GET", &path, "")?;
        let found = page["nodes"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let is_last = found.len() < PAGE;
        nodes.extend(found);
        if is_last {
            return Ok(nodes);
        }
    }
}

/// One command line, which the agent splits into the same words.
fn join(words: &[String]) -> String {
    let quoted = words.iter().map(|word| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,@%+".contains(&byte);
        match !word.is_empty() && word.bytes().all(is_plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::shell_words;

    #[test]
    fn agent_splits_a_command_into_the_same_words() {
        let words = ["echo", "a b", "", "it's", "$HOME", "*", ";", "é", "--x=1", "a\"b\\c", "~"];
        let words = words.map(str::to_owned);
        assert_eq!(shell_words::split(&join(&words)).unwrap(), words);
        assert_eq!(join(&["nvidia-smi".to_owned(), "-L".to_owned()]), "nvidia-smi -L");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["NODE", "STATUS"], ["é", "-"], ["longer", "online"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "NODE    STATUS\né       -\nlonger  online\n");
    }

    #[test]
    fn report_has_status_and_output_of_each_node() {
        let mut report = String::new();
        let done = json!({"command": {"status": "failed"},
            "result": {"exit_code": 3, "stdout": "out\n", "stderr": "\u{1b}[31merr"}});
        assert!(!add_result(&mut report, "a", &Ok(done)));
        assert!(add_result(&mut report, "b", &Ok(json!({"command": {"status": "success"}}))));
        let error = Error::Arguments("no such node".to_owned());
        assert!(!add_result(&mut report, "c", &Err(error)));
        assert!(report.starts_with("a: failed (exit code 3)\nout\n"), "{report}");
        assert!(report.contains("\nb: success\nc: ") && !report.contains('\u{1b}'), "{report}");
    }
}
