//! `hm-hub node` and `hm-hub command`: what an operator does with nodes on the command line of the hub.

use std::fmt::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::hub::cli::client::RestClient;
use crate::util::error::Error;
use crate::util::percent;
use crate::util::text::{escape_for_log, escape_for_terminal, escape_json_for_terminal};

/// Nodes in one answer of the hub.
const PAGE: usize = 1000;
/// Time after the timeout of a command in which the hub has a result or marks it as timed out.
const RESULT_GRACE: Duration = Duration::from_secs(15);
/// Longer texts of a table are cut off. Ids of nodes have at most 256 bytes.
const MAX_CELL_CHARS: usize = 256;
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
                let text = text.filter(|text| !text.is_empty()).unwrap_or("-");
                escape_for_log(text, MAX_CELL_CHARS)
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
    Ok(escape_json_for_terminal(&format!("{node:#}\n")))
}

pub fn forget(hub: &RestClient, node_id: &str, is_forced: bool) -> Result<(), Error> {
    let query = if is_forced { "?force=true" } else { "" };
    hub.call("DELETE", &format!("nodes/{}{query}", percent::encode(node_id)), "").map(drop)
}

/// The nodes of a group that are online, and the number of the others.
pub fn of_group(hub: &RestClient, group: &str) -> Result<(Vec<String>, usize), Error> {
    let nodes = all(hub)?;
    let of_group: Vec<&Value> = nodes.iter().filter(|node| node["group"] == group).collect();
    if of_group.is_empty() {
        return Err(Error::Arguments(format!(
            "no node has the group \"{}\"",
            group.escape_debug()
        )));
    }
    let online = of_group.iter().filter(|node| node["status"] == "online");
    let mut ids: Vec<String> =
        online.filter_map(|node| node["node_id"].as_str().map(str::to_owned)).collect();
    ids.sort_unstable();
    let others = of_group.len() - ids.len();
    Ok((ids, others))
}

/// Runs a command on nodes, and prints each result when it is there. Returns the number of successes.
pub fn run(
    hub: &RestClient,
    node_ids: &[String],
    words: &[String],
    timeout_s: u32,
    print: impl Fn(&str) -> Result<(), Error>,
) -> Result<usize, Error> {
    let body = json!({"command_text": join(words), "timeout": timeout_s}).to_string();
    let submit = |node_id: &String| {
        let path = format!("nodes/{}/commands", percent::encode(node_id));
        let accepted = hub.call("POST", &path, &body)?;
        Ok(accepted["command_id"].as_str().unwrap_or_default().to_owned())
    };
    // A node that has been forgotten meanwhile does not keep the others from running it.
    let submitted: Vec<Result<String, Error>> = node_ids.iter().map(submit).collect();
    let deadline = Instant::now() + Duration::from_secs(timeout_s.into()) + RESULT_GRACE;
    let mut succeeded = 0;
    for (node_id, submitted) in node_ids.iter().zip(submitted) {
        let result = submitted.and_then(|command_id| wait(hub, &command_id, deadline));
        print(&report(node_id, &result))?;
        let is_success = |found: &Value| found["command"]["status"] == "success";
        succeeded += usize::from(result.is_ok_and(|found| is_success(&found)));
    }
    Ok(succeeded)
}

/// Waits until the hub has a result, or has marked the command as timed out. It may be restarted meanwhile.
fn wait(hub: &RestClient, command_id: &str, deadline: Instant) -> Result<Value, Error> {
    let path = format!("commands/{}", percent::encode(command_id));
    loop {
        let found = hub.call("GET", &path, "");
        let is_done = found.as_ref().is_ok_and(|found| {
            !matches!(found["command"]["status"].as_str(), Some("pending" | "running"))
        });
        if is_done || Instant::now() >= deadline {
            return found;
        }
        sleep(POLL_INTERVAL);
    }
}

/// A line with the status, then the output, whose lines are indented: a node cannot print the status of another.
fn report(node_id: &str, result: &Result<Value, Error>) -> String {
    let (status, outputs) = match result {
        Ok(found) => {
            let exit = found["result"]["exit_code"].as_i64();
            let exit = exit.map_or(String::new(), |code| format!(" (exit code {code})"));
            let status = found["command"]["status"].as_str().unwrap_or_default();
            let output = |name: &str| found["result"][name].as_str().unwrap_or_default();
            (format!("{status}{exit}"), [output("stdout"), output("stderr")])
        }
        Err(error) => (error.to_string(), ["", ""]),
    };
    let mut report =
        format!("{}: {}\n", escape_for_terminal(node_id), escape_for_terminal(&status));
    for line in outputs.iter().flat_map(|output| output.lines()) {
        let parts: Vec<_> = line.split('\t').map(escape_for_terminal).collect();
        let _ = writeln!(report, "  {}", parts.join("\t"));
    }
    report
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
    fn output_cannot_be_taken_for_a_status_or_control_the_terminal() {
        let done = json!({"command": {"status": "failed"}, "result":
            {"exit_code": 3, "stdout": "a\tb\nc: success", "stderr": "\u{1b}[31merr\n"}});
        let expected = "a: failed (exit code 3)\n  a\tb\n  c: success\n  \\u{1b}[31merr\n";
        assert_eq!(report("a", &Ok(done)), expected);
        assert_eq!(report("b", &Ok(json!({"command": {"status": "success"}}))), "b: success\n");
        let error = Error::Arguments("no".to_owned());
        assert_eq!(report("c\n", &Err(error)), "c\\n: no; see --help\n");
    }
}
