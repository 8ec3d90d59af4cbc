//! Connections of Core nodes and of monitor clients on an event loop.

use std::time::Instant;
use std::time::SystemTime;

use tungstenite::protocol::frame::coding::CloseCode;

use crate::hub::Hub;
use crate::hub::core::node_session::{Content, CoreNodeAction, CoreNodeRequest};
use crate::hub::core::{answers, messages, monitor};
use crate::hub::event_loop::EventLoop;
use crate::hub::event_loop::link::{Ended, Link, Protocol};
use crate::hub::store::records::NewCommand;
use crate::hub::store::{Completed, QueuedWrite, Stored, Write, WriteOrigin};
use crate::hub_extension::messages::HubInfo;

impl EventLoop {
    /// Sends the first messages to a new client.
    pub(super) fn welcome(&mut self, hub: &Hub, number: u64) {
        let (now, time) = (Instant::now(), SystemTime::now());
        self.with_link(hub, number, |link| match &link.protocol {
            Protocol::Hm { .. } => Ok(()),
            Protocol::CoreNode(session) => {
                let text = session.welcome(time);
                link.send(&text, now)
            }
            Protocol::Monitor { client_id, .. } => {
                let text = monitor::welcome(client_id, time);
                link.send(&text, now)?;
                send_state(hub, link)
            }
        });
    }

    pub(super) fn on_core_text(&mut self, hub: &Hub, number: u64, text: &str) -> Result<(), Ended> {
        let id = self.link_id(number);
        let Some(link) = self.links.get_mut(&number) else { return Ok(()) };
        let (now, time) = (Instant::now(), SystemTime::now());
        match &mut link.protocol {
            Protocol::CoreNode(session) => match session.on_message(time, text) {
                CoreNodeAction::Send(text) => link.send(&text, now),
                CoreNodeAction::SendAndClose(text) => send_and_close(link, &text, now),
                CoreNodeAction::Store(request) => {
                    if !link.is_accepted
                        && let Err(why) = hub.check_identity(&request.node_id, link)
                    {
                        let error = messages::error("INVALID_TOKEN", "认证令牌无效", why, time);
                        return send_and_close(link, &error, now);
                    }
                    link.is_accepted = true;
                    if !hub.on_core_message(&request.node_id, id, link) {
                        return Err(Ended("too many nodes".to_owned()));
                    }
                    link.on_queued();
                    if let Content::Register(_) = request.content {
                        link.sent_commands.on_registration();
                    }
                    let write = Write::Core(request);
                    hub.store.add(QueuedWrite { write, origin: WriteOrigin::Link(id) });
                    Ok(())
                }
            },
            Protocol::Monitor { client_id, .. } => {
                match monitor::on_message(client_id, time, text) {
                    monitor::MonitorAction::Send(text) => link.send(&text, now),
                    monitor::MonitorAction::SendAndClose(text) => send_and_close(link, &text, now),
                }
            }
            Protocol::Hm { .. } => Ok(()),
        }
    }

    /// Answers a node. A node that does not read gets no answer that it can do without.
    pub(super) fn on_core_stored(
        &mut self,
        hub: &Hub,
        number: u64,
        request: &CoreNodeRequest,
        completed: &Completed,
    ) {
        let (now, time) = (Instant::now(), SystemTime::now());
        self.with_link(hub, number, |link| {
            link.on_stored();
            if let Content::Register(_) = request.content {
                link.sent_commands.on_registration_result();
            }
            let is_registered = matches!(request.content, Content::Register(_))
                && completed.stored != Stored::Failed;
            let info = match is_registered {
                true => hub.hub_info(&request.node_id, link),
                false => HubInfo::own(None),
            };
            let answer = answers::answer(request, completed.stored, time, &info);
            if let Some(answer) = answer
                && !(link.is_blocked() && answers::is_optional(request))
            {
                link.send(&answer, now)?;
            }
            if completed.stored != Stored::Failed {
                if let Content::Register(_) = request.content {
                    link.permit_results();
                }
                // A client that does not prove which node it is must not get the node's commands.
                let is_authenticated = link.admitted.is_authenticated();
                for command in completed.commands.iter().filter(|_| is_authenticated) {
                    if link.sent_commands.add_pending(&command.command_id) {
                        link.send(&messages::execute_command(command, time), now)?;
                    }
                }
            }
            Ok(())
        });
        self.ready.push(number);
    }

    /// Sends a new command to a node. If the connection has ended, the next one of the node gets it, to whichever hub.
    pub(super) fn send_command(&mut self, hub: &Hub, number: u64, command: &NewCommand) {
        let (now, time) = (Instant::now(), SystemTime::now());
        if let (None, Some(cluster)) = (self.links.get(&number), &hub.cluster) {
            cluster.give_back(vec![command.command_id.clone()]);
        }
        self.with_link(hub, number, |link| match link.sent_commands.add_new(&command.command_id) {
            true => link.send(&messages::execute_command(command, time), now),
            false => Ok(()),
        });
    }

    pub(super) fn broadcast(&mut self, hub: &Hub, text: &str) {
        let now = Instant::now();
        for number in self.monitors.clone() {
            self.with_link(hub, number, |link| {
                let is_blocked = link.is_blocked();
                if let Protocol::Monitor { is_outdated, .. } = &mut link.protocol {
                    *is_outdated |= is_blocked;
                    if *is_outdated {
                        return Ok(());
                    }
                }
                link.send(text, now)
            });
        }
    }

    /// Sends the current state to a monitor client that has missed changes and reads again.
    pub(super) fn update_monitor(&mut self, hub: &Hub, number: u64) {
        self.with_link(hub, number, |link| {
            let is_blocked = link.is_blocked();
            match &mut link.protocol {
                Protocol::Monitor { is_outdated, .. } if *is_outdated && !is_blocked => {
                    *is_outdated = false;
                    send_state(hub, link)
                }
                _ => Ok(()),
            }
        });
    }
}

/// Sends all nodes and their latest metrics.
fn send_state(hub: &Hub, link: &mut Link) -> Result<(), Ended> {
    let (now, time) = (Instant::now(), SystemTime::now());
    link.send(&monitor::nodes_update(&hub.nodes_json(None), time), now)?;
    link.send(&monitor::metrics_update(&hub.metrics_json(), time), now)
}

fn send_and_close(link: &mut Link, text: &str, now: Instant) -> Result<(), Ended> {
    link.send(text, now)?;
    link.close(CloseCode::Policy, "invalid message", now)
}
