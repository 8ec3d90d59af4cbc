//! Reports over hm as an answer of the REST API. It may have a million of them, so it is not made in memory.

use std::io::{self, Write};
use std::time::SystemTime;

use rusqlite::Connection;

use crate::http::response::{OK, Response};
use crate::hub::Hub;
use crate::hub::core::messages;
use crate::hub::core::rest::{ApiError, JSON};
use crate::hub::store::StoreError;
use crate::hub::store::hm_reports::query::{Selection, for_each_report};

/// Newest first.
pub fn response(hub: &Hub, selection: Selection) -> Result<Response, ApiError> {
    let db = hub.store.open_reader()?;
    // Both passes see the same reports.
    db.execute_batch("BEGIN").map_err(StoreError::from)?;
    let timestamp = messages::message_time(SystemTime::now());
    let mut length = ByteCounter(0);
    write(&db, &selection, &timestamp, &mut length)
        .map_err(|WriteError(error)| StoreError(error.to_string()))?;
    let write_body = move |output: &mut dyn Write| {
        write(&db, &selection, &timestamp, output).map_err(|WriteError(error)| error)
    };
    Ok(Response::streamed(OK, JSON, length.0, write_body))
}

/// Of the database or of the connection.
struct WriteError(io::Error);

impl From<StoreError> for WriteError {
    fn from(StoreError(why): StoreError) -> Self {
        Self(io::Error::other(why))
    }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

fn write(
    db: &Connection,
    selection: &Selection,
    timestamp: &str,
    output: &mut dyn Write,
) -> Result<(), WriteError> {
    output.write_all(b"{\"data\":{\"reports\":[")?;
    let mut separator = "";
    for_each_report(db, selection, |report| {
        output.write_all(separator.as_bytes())?;
        separator = ",";
        Ok::<_, WriteError>(serde_json::to_writer(&mut *output, &report).map_err(io::Error::from)?)
    })?;
    let end = format!(
        "]}},\"message\":\"获取上报数据成功\",\"success\":true,\"timestamp\":\"{timestamp}\"}}"
    );
    Ok(output.write_all(end.as_bytes())?)
}

/// Counts what is written.
struct ByteCounter(usize);

impl Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
