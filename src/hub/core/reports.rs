//! Answers of the REST API with up to a million hm reports, which are read and rendered in parts while they are sent.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::SystemTime;

use crate::http::response::{ErrorResponse, Response};
use crate::hub::Hub;
use crate::hub::core::messages;
use crate::hub::core::rest::{ApiError, JSON_CONTENT_TYPE};
use crate::hub::store::StoreError;
use crate::hub::store::database::Reader;
use crate::hub::store::records::Selection;

/// More answers at a time are refused: each holds a connection to the database, and eight bytes per report.
const MAX_ANSWERS: usize = 4;
/// Reports of a part. With the longest texts, a part has about 30 MB.
const PART_REPORTS: usize = 500;

/// Number of answers that are being sent.
#[derive(Default)]
pub struct ReportAnswers(Arc<AtomicUsize>);

/// Counts an answer until it is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl ReportAnswers {
    fn place(&self) -> Option<Place> {
        let place = Place(self.0.clone());
        (self.0.fetch_add(1, Relaxed) < MAX_ANSWERS).then_some(place)
    }

    /// Reports of a node, newest first.
    pub fn answer(&self, hub: &Hub, selection: &Selection) -> Result<Response, ApiError> {
        let Some(place) = self.place() else {
            let text = "too many answers with reports are being sent";
            return Ok(ErrorResponse::service_unavailable(text).to_response());
        };
        let mut db = hub.store.open_reader()?;
        let mut answer = Answer {
            times: db.report_times(selection)?,
            selection: selection.clone(),
            next: 0,
            separator: b"",
            db,
            _place: place,
        };
        Ok(Response::parts(JSON_CONTENT_TYPE, move |output| answer.write_part(output)))
    }
}

/// An answer that is being sent.
struct Answer {
    db: Box<dyn Reader>,
    selection: Selection,
    /// Of all reports, newest first. Those of a part are read when it is due, so that no transaction is as long as the answer.
    times: Vec<i64>,
    /// Index of the next report.
    next: usize,
    /// Before the next report. A part may be empty, because reports are deleted meanwhile.
    separator: &'static [u8],
    _place: Place,
}

impl Answer {
    /// Returns whether another part follows.
    fn write_part(&mut self, output: &mut dyn Write) -> io::Result<bool> {
        if self.next == 0 {
            output.write_all(b"{\"data\":{\"reports\":[")?;
        }
        let times = self.times.get(self.next..).unwrap_or_default();
        let times = &times[..times.len().min(PART_REPORTS)];
        if let (Some(end), Some(start)) = (times.first(), times.last()) {
            let part = Selection { start: *start, end: *end, ..self.selection.clone() };
            let found = self.db.reports(&part).map_err(|StoreError(why)| {
                // The status has been sent; the client sees that the answer is cut.
                log::warn!("core: read reports for an answer: {why}");
                io::Error::other(why)
            })?;
            for report in &found {
                output.write_all(self.separator)?;
                self.separator = b",";
                serde_json::to_writer(&mut *output, report)?;
            }
            self.next += times.len();
        }
        if self.next < self.times.len() {
            return Ok(true);
        }
        let timestamp = messages::message_time(SystemTime::now());
        write!(
            output,
            "]}},\"message\":\"获取上报数据成功\",\"success\":true,\"timestamp\":\"{timestamp}\"}}"
        )?;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_the_number_of_answers() {
        let answers = ReportAnswers::default();
        let mut places: Vec<_> = (0..MAX_ANSWERS).map(|_| answers.place().unwrap()).collect();
        assert!(answers.place().is_none() && answers.place().is_none());
        places.pop();
        assert!(answers.place().is_some());
    }
}
