//! The REST API of Core. Errors of known paths have HTTP status 200, too: published clients throw at any other status.

use std::sync::Mutex;

use serde_json::{Value, json};
use std::time::{Instant, SystemTime};

use crate::http::request::RequestHead;
use crate::http::response::{OK, Response};
use crate::hub::Hub;
use crate::hub::authorization::OperatorName;
use crate::hub::core::messages::{self, rest_time, unix_ms};
use crate::hub::core::reports::ReportAnswers;
use crate::hub::core::rest_actions as actions;
use crate::hub::nodes::Presence;
use crate::hub::store::StoreError;
use crate::hub::store::database::Reader;
use crate::hub::store::records::{
    CommandFilter, MetricCounts, MetricSummary, Page, Selection, StoredCommand,
};
use crate::util::sync::lock;

/// More rows are not returned at once.
const MAX_ROWS: u32 = 10_000;
/// More reports are not returned at once.
const MAX_REPORTS: u32 = 1_000_000;
/// More results of commands, each of up to 2 MB, are not returned at once.
const MAX_RESULTS: u32 = 20;
/// Longest time without a heartbeat that `nodes/cleanup` tolerates.
const CLEANUP_AGE_MS: i64 = 30 * 60 * 1000;

pub(super) const JSON_CONTENT_TYPE: &str = "application/json; charset=utf-8";

/// An error of the API.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiError {
    code: &'static str,
    message: String,
}

pub(super) fn error(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError { code, message: message.into() }
}

impl From<StoreError> for ApiError {
    fn from(failure: StoreError) -> Self {
        error("DATABASE_ERROR", failure.0)
    }
}

/// Data and message of an answer.
pub(super) type Answer = Result<(Value, &'static str), ApiError>;

/// Answers queries; keeps a connection to the database.
pub struct Rest {
    reader: Mutex<Option<Box<dyn Reader>>>,
    started: Instant,
    pub commands_enabled: bool,
    report_answers: ReportAnswers,
}

impl Rest {
    pub fn new(commands_enabled: bool) -> Self {
        Self {
            reader: Mutex::new(None),
            started: Instant::now(),
            commands_enabled,
            report_answers: ReportAnswers::default(),
        }
    }

    /// `None` if there is no such path. `path` is what follows `/api/v1/`. The caller has checked the operator's role.
    pub fn answer(
        &self,
        hub: &Hub,
        path: &str,
        head: &RequestHead<'_>,
        operator: &OperatorName,
    ) -> Option<Response> {
        let parts: Vec<&str> = path.split('/').collect();
        let answer = match (head.method, &parts[..]) {
            ("GET" | "HEAD", ["health"]) => Ok(health()),
            ("GET" | "HEAD", ["nodes"]) => nodes(hub, head),
            ("GET" | "HEAD", ["nodes", "stats"]) => Ok(node_stats(hub)),
            ("GET" | "HEAD", ["nodes", "cleanup"]) => Ok(cleanup(hub)),
            ("GET" | "HEAD", ["nodes", id]) => node(hub, &decode(id)),
            ("DELETE", ["nodes", id]) => {
                let stored = |id: &str| self.query(hub, |db| db.is_connected(id));
                actions::delete(hub, &decode(id), head, operator, stored)
            }
            ("GET" | "HEAD", ["nodes", id, "metrics", "latest"]) => latest(hub, &decode(id)),
            ("GET" | "HEAD", ["nodes", id, "metrics", "summary"]) => {
                self.summary(hub, &decode(id), head)
            }
            ("GET" | "HEAD", ["nodes", id, "metrics"]) => self.metrics(hub, &decode(id), head),
            ("GET" | "HEAD", ["nodes", id, "reports"]) => {
                let reports = selection(&decode(id), head, MAX_REPORTS)
                    .and_then(|selection| self.report_answers.answer(hub, &selection));
                // A streamed response, not a JSON value.
                match reports {
                    Ok(response) => return Some(response),
                    Err(error) => Err(error),
                }
            }
            ("GET" | "HEAD", ["nodes", id, "reports", "means"]) => {
                self.means(hub, &decode(id), head)
            }
            ("GET" | "HEAD", ["nodes", id, "commands"]) => {
                self.commands_of_node(hub, &decode(id), head)
            }
            ("POST", ["nodes", id, "commands"]) => {
                actions::command(hub, self.commands_enabled, &decode(id), head, operator)
            }
            ("GET" | "HEAD", ["metrics", "latest"]) => {
                Ok((json!({"metrics": hub.metrics_json()}), "获取所有节点最新监控数据成功"))
            }
            ("GET" | "HEAD", ["metrics", "stats"]) => self.metric_stats(hub),
            ("GET" | "HEAD", ["commands"]) => self.commands(hub, head),
            ("GET" | "HEAD", ["commands", id]) => self.command_by_id(hub, &decode(id)),
            ("GET" | "HEAD", ["system", "stats"]) => self.system_stats(hub),
            _ => return None,
        };
        Some(Response::new(OK, JSON_CONTENT_TYPE, envelope(answer).into_bytes().into()))
    }

    /// Runs a query on the database. After an error, the next one gets a new connection.
    fn query<R>(
        &self,
        hub: &Hub,
        query: impl FnOnce(&mut dyn Reader) -> Result<R, StoreError>,
    ) -> Result<R, ApiError> {
        let mut reader = lock(&self.reader).take().map_or_else(|| hub.store.open_reader(), Ok)?;
        let result = query(&mut *reader)?;
        *lock(&self.reader) = Some(reader);
        Ok(result)
    }

    fn metrics(&self, hub: &Hub, id: &str, head: &RequestHead<'_>) -> Answer {
        let page = page(head, 100)?;
        let range = time_range(head);
        let (metrics, total) = self.query(hub, |db| db.metrics(id, range, page))?;
        let metrics: Vec<Value> = metrics.iter().map(|metric| metric.to_json(id)).collect();
        let data =
            json!({"metrics": metrics, "total": total, "limit": page.limit, "offset": page.offset});
        Ok((data, "获取监控历史数据成功"))
    }

    fn summary(&self, hub: &Hub, id: &str, head: &RequestHead<'_>) -> Answer {
        let (Some(start), Some(end)) = (time(head, "start_time"), time(head, "end_time")) else {
            return Err(error("INVALID_TIME_FORMAT", "start_time and end_time are needed"));
        };
        if start >= end {
            return Err(error("INVALID_TIME_RANGE", "开始时间必须早于结束时间"));
        }
        let MetricSummary { count, means_and_maxima } =
            self.query(hub, |db| db.metric_summary(id, (start, end)))?;
        if count == 0 {
            return Ok((Value::Null, "获取监控数据统计摘要成功"));
        }
        let mut data = json!({"node_id": id, "sample_count": count});
        let names = ["cpu_usage", "memory_usage", "disk_usage", "load_average"];
        let names = names.iter().flat_map(|name| [format!("avg_{name}"), format!("max_{name}")]);
        for (name, value) in names.zip(means_and_maxima) {
            data[name] = json!(value);
        }
        Ok((data, "获取监控数据统计摘要成功"))
    }

    /// Means of the reports over hm, newest first.
    fn means(&self, hub: &Hub, id: &str, head: &RequestHead<'_>) -> Answer {
        let selection = selection(id, head, MAX_ROWS)?;
        let means = self.query(hub, |db| db.means(&selection))?;
        Ok((json!({"means": means}), "获取上报数据成功"))
    }

    fn metric_stats(&self, hub: &Hub) -> Answer {
        let now = unix_ms(SystemTime::now());
        let MetricCounts { total, first, last, since } =
            self.query(hub, |db| db.metric_counts(now - 86_400_000))?;
        let plain =
            |time: Option<i64>| time.map(|time| rest_time(time).replace('T', " ").replace('Z', ""));
        let hours = first.map_or(1, |first| ((now - first) / 3_600_000).max(1));
        let data = json!({"total_metrics": total, "last_24h_count": since,
            "earliest_metric_time": plain(first), "latest_metric_time": plain(last),
            "metrics_per_hour": total as f64 / hours as f64});
        Ok((data, "获取系统监控统计信息成功"))
    }

    fn command_by_id(&self, hub: &Hub, id: &str) -> Answer {
        let filter = CommandFilter { command_id: Some(id), ..CommandFilter::default() };
        let first = Page { limit: 1, offset: 0 };
        let (found, _) = self.query(hub, |db| db.commands(filter, true, first))?;
        match found.into_iter().next() {
            Some(StoredCommand { command, result }) => {
                Ok((json!({"command": command, "result": result}), "获取命令信息成功"))
            }
            None => Err(error("COMMAND_NOT_FOUND", "命令不存在")),
        }
    }

    fn commands_of_node(&self, hub: &Hub, id: &str, head: &RequestHead<'_>) -> Answer {
        let Page { limit, offset } = page(head, 20)?;
        let status = text(head, "status");
        let filter = CommandFilter {
            node_id: Some(id),
            status: status.as_deref(),
            ..CommandFilter::default()
        };
        let page = Page { limit: limit.min(MAX_RESULTS), offset };
        let (found, total) = self.query(hub, |db| db.commands(filter, true, page))?;
        let entry =
            |StoredCommand { command, result }| json!({"command": command, "result": result});
        let found: Vec<Value> = found.into_iter().map(entry).collect();
        Ok((json!({"commands": found, "total": total}), "获取命令列表成功"))
    }

    fn commands(&self, hub: &Hub, head: &RequestHead<'_>) -> Answer {
        let page = page(head, 50)?;
        let (status, node_id) = (text(head, "status"), text(head, "node_id"));
        let filter = CommandFilter {
            node_id: node_id.as_deref(),
            status: status.as_deref(),
            ..CommandFilter::default()
        };
        let (found, total) = self.query(hub, |db| db.commands(filter, false, page))?;
        let found: Vec<Value> = found.into_iter().map(|found| found.command).collect();
        Ok((json!({"commands": found, "total": total}), "获取命令列表成功"))
    }

    fn system_stats(&self, hub: &Hub) -> Answer {
        let (total, pending) = self.query(hub, |db| db.command_counts())?;
        let [online, lost, offline] = lock(&hub.nodes).counts();
        let uptime = self.started.elapsed().as_secs();
        let data = json!({"total_nodes": online + lost + offline, "online_nodes": online,
            "total_commands": total, "pending_commands": pending, "system_uptime": uptime});
        Ok((data, "获取系统统计信息成功"))
    }
}

fn health() -> (Value, &'static str) {
    (json!({"status": "healthy", "websocket": "running"}), "✅ Core服务运行正常")
}

fn nodes(hub: &Hub, head: &RequestHead<'_>) -> Answer {
    let Page { limit, offset } = page(head, 50)?;
    let all = hub.nodes_json(text(head, "status").as_deref());
    let total = all.len();
    let nodes: Vec<Value> = all.into_iter().skip(offset as usize).take(limit as usize).collect();
    let data = json!({"nodes": nodes, "total": total, "limit": limit, "offset": offset});
    Ok((data, "获取节点列表成功"))
}

fn node(hub: &Hub, id: &str) -> Answer {
    let found = lock(&hub.nodes).info(id);
    let (presence, info) = found.ok_or_else(|| error("NODE_NOT_FOUND", "节点不存在"))?;
    Ok((info.to_json(id, presence), "获取节点信息成功"))
}

fn latest(hub: &Hub, id: &str) -> Answer {
    let info = lock(&hub.nodes).info(id).map(|(_, info)| info);
    match info.as_ref().and_then(|info| info.metrics.as_ref()) {
        Some(metrics) => Ok((metrics.to_json(id), "获取最新监控数据成功")),
        None => Err(error("NO_METRICS_DATA", "该节点暂无监控数据")),
    }
}

fn node_stats(hub: &Hub) -> (Value, &'static str) {
    let nodes = lock(&hub.nodes);
    let [online, lost, offline] = nodes.counts();
    let data = json!({"total_nodes": online + lost + offline, "online_nodes": online,
        "offline_nodes": offline, "connection_count": nodes.core_connections()});
    (data, "获取节点统计信息成功")
}

/// The published service sets nodes offline here. The hub does so by itself, so this only counts them.
fn cleanup(hub: &Hub) -> (Value, &'static str) {
    let oldest = unix_ms(SystemTime::now()) - CLEANUP_AGE_MS;
    let is_old = |at: Option<i64>| at.is_none_or(|at| at < oldest);
    let nodes = lock(&hub.nodes).all();
    let count = nodes
        .iter()
        .filter(|(_, presence, info)| *presence != Presence::Online && is_old(info.last_heartbeat))
        .count();
    (json!(count), "清理过期节点成功")
}

fn envelope(answer: Answer) -> String {
    let timestamp = messages::message_time(SystemTime::now());
    match answer {
        Ok((data, message)) => {
            json!({"success": true, "message": message, "data": data, "timestamp": timestamp})
        }
        Err(ApiError { code, message }) => {
            json!({"success": false, "message": message, "data": null, "error_code": code,
                "timestamp": timestamp})
        }
    }
    .to_string()
}

fn decode(part: &str) -> String {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
}

fn text(head: &RequestHead<'_>, name: &str) -> Option<String> {
    let value = head.query_value(name)?;
    Some(String::from_utf8_lossy(&value).into_owned()).filter(|value| !value.is_empty())
}

fn number(head: &RequestHead<'_>, name: &str) -> Result<Option<u32>, ApiError> {
    let parse = |text: String| {
        let invalid = |_| error("VALIDATION_ERROR", format!("{name} is not a number"));
        text.parse().map_err(invalid)
    };
    text(head, name).map(parse).transpose()
}

/// `start_time`, `end_time` and `limit` of a request for reports.
fn selection(id: &str, head: &RequestHead<'_>, max: u32) -> Result<Selection, ApiError> {
    let limit = number(head, "limit")?.unwrap_or(1000).min(max);
    let (start, end) = time_range(head);
    Ok(Selection { node_id: id.to_owned(), start, end, limit })
}

fn page(head: &RequestHead<'_>, default_limit: u32) -> Result<Page, ApiError> {
    let limit = number(head, "limit")?.unwrap_or(default_limit).min(MAX_ROWS);
    Ok(Page { limit, offset: number(head, "offset")?.unwrap_or(0) })
}

/// `start_time` and `end_time` in Unix milliseconds, both included.
fn time_range(head: &RequestHead<'_>) -> (i64, i64) {
    (time(head, "start_time").unwrap_or(i64::MIN), time(head, "end_time").unwrap_or(i64::MAX))
}

/// A time without an offset is ignored, as by the published service: published clients send their local time.
fn time(head: &RequestHead<'_>, name: &str) -> Option<i64> {
    messages::parse_time(&text(head, name)?)
}
