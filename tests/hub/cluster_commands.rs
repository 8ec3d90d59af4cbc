//! Commands for nodes of two hubs that share a PostgreSQL database.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{pair, wait_state};
use crate::support::cluster::Member;
use crate::support::hub::CoreLink;
use crate::support::postgres::{OpenTransaction, Postgres};
use crate::support::tcp_proxy::{ProxyMode, TcpProxy};
use crate::support::wall_clock::WallClock;
use crate::support::{sleep_for, wait_until};

fn connect(member: &Member, node_id: &str) -> CoreLink {
    member.hub().core("/api/v1/ws", &format!("token=default-token&node_id={node_id}"))
}

fn register(member: &Member, node_id: &str) -> CoreLink {
    let mut link = connect(member, node_id);
    assert_eq!(link.register(node_id)["success"], true);
    link
}

fn submit(member: &Member, timeout: u32) -> String {
    let body = json!({"command_text": "true", "timeout": timeout}).to_string();
    let answer = member.hub().rest("POST", "nodes/a/commands", &body);
    answer["data"]["command_id"].as_str().unwrap().to_owned()
}

/// Statements of this kind wait until the result is committed.
fn hold(postgres: &Postgres, statements: &str) -> OpenTransaction {
    postgres.query(&format!(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           WHILE NOT pg_try_advisory_xact_lock(42) LOOP PERFORM pg_sleep(0.02); END LOOP;
           RETURN NEW;
         END $$;
         CREATE TRIGGER wait {statements} FOR EACH ROW EXECUTE FUNCTION wait()"
    ));
    postgres.begin("SELECT pg_advisory_xact_lock(42)")
}

#[test]
#[ignore = "needs PostgreSQL"]
fn command_from_either_hub_reaches_its_node_with_one_result() {
    let postgres = Postgres::start();
    let [one, two] = pair(&postgres, &["commands.enabled=true"]);
    let mut link = register(&one, "a");
    wait_state(&two, "a", "online");
    for member in [&one, &two] {
        let started = Instant::now();
        let id = submit(member, 30);
        let command = link.until("execute_command");
        let took = started.elapsed();
        assert_eq!(command["command_id"], *id);
        assert!(took < Duration::from_secs(5), "{took:?}");
        for stdout in ["first", "second"] {
            let result = json!({"command_id": id, "exit_code": 0, "stdout": stdout});
            link.send("command_result", "r", &result);
            link.until("command_received");
        }
        for member in [&one, &two] {
            let found = member.hub().rest("GET", &format!("commands/{id}"), "");
            assert_eq!(found["data"]["command"]["status"], "success");
            assert_eq!(found["data"]["result"]["stdout"], "first");
        }
    }
    // A command whose connection has ended is sent again on the next one, at whichever hub.
    let id = submit(&two, 30);
    assert_eq!(link.until("execute_command")["command_id"], *id);
    drop(link);
    let mut link = register(&two, "a");
    assert_eq!(link.until("execute_command")["command_id"], *id);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn command_is_sent_after_the_database_answer_was_lost() {
    let postgres = Postgres::start();
    let proxy = TcpProxy::to(postgres.address, None);
    let settings = ["commands.enabled=true"];
    let one = Member::start("one", &postgres.url_at(proxy.address), &settings);
    let two = Member::start("two", &postgres.url(), &settings);
    let mut link = register(&one, "a");
    wait_state(&two, "a", "online");
    postgres.query(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2); RETURN NEW; END';
         CREATE TRIGGER wait BEFORE UPDATE ON command FOR EACH ROW
           WHEN (OLD.taken_by IS NULL AND NEW.taken_by IS NOT NULL) EXECUTE FUNCTION wait()",
    );
    let id = submit(&two, 300);
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until("a hub to take it", || (postgres.count(sleeping) == 1).then_some(()));
    proxy.set_mode(ProxyMode::Cut);
    let taken = "SELECT count(*) FROM command WHERE taken_by IS NOT NULL";
    wait_until("its commit", || (postgres.count(taken) == 1).then_some(()));
    postgres.query("DROP TRIGGER wait ON command");
    proxy.set_mode(ProxyMode::Forward);
    assert_eq!(link.until("execute_command")["command_id"], *id);
}

#[test]
#[ignore = "needs root and PostgreSQL"]
fn wrong_clock_of_a_hub_does_not_time_out_commands() {
    let postgres = Postgres::start();
    let [one, two] = pair(&postgres, &["commands.enabled=true"]);
    let _link = register(&one, "a");
    let Some(clock) = WallClock::of(two.hub().pid()) else { return };
    wait_state(&two, "a", "online");
    for (member, error) in [(&one, 3600), (&two, -3600)] {
        clock.wrong_by(error);
        let id = submit(member, 60);
        sleep_for(Duration::from_secs(3));
        let found = one.hub().rest("GET", &format!("commands/{id}"), "");
        assert_eq!(found["data"]["command"]["status"], "pending", "{error}: {found}");
    }
}

#[test]
#[ignore = "needs PostgreSQL"]
fn command_is_sent_once_while_a_registration_is_committed() {
    let postgres = Postgres::start();
    let [one, two] = pair(&postgres, &["commands.enabled=true"]);
    let link = register(&one, "a");
    wait_state(&two, "a", "online");
    drop(link);
    wait_state(&two, "a", "lost");
    let open = hold(&postgres, "BEFORE UPDATE OF hostname ON node");
    let mut link = connect(&one, "a");
    let data = json!({"node_id": "a", "hostname": "server-01", "ip_address": "192.0.2.1"});
    link.send("node_register", "r", &data);
    wait_state(&two, "a", "online");
    let id = submit(&two, 300);
    assert_eq!(link.until("execute_command")["command_id"], *id);
    open.commit();
    assert_eq!(link.until("register_response")["success"], true);
    link.send("heartbeat", "h", &json!({"node_id": "a", "status": "online"}));
    let next = link.next();
    assert_eq!(next["type"], "heartbeat_ack", "{next}");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn command_reaches_a_node_that_moves_to_another_hub_while_it_is_stored() {
    let postgres = Postgres::start();
    let [one, two] = pair(&postgres, &["commands.enabled=true"]);
    let link = register(&one, "a");
    wait_state(&two, "a", "online");
    let open = hold(&postgres, "BEFORE INSERT ON command");
    std::thread::scope(|scope| {
        let submitted = scope.spawn(|| submit(&one, 300));
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        wait_until("the command to be stored", || (postgres.count(sleeping) == 1).then_some(()));
        drop(link);
        let mut link = register(&two, "a");
        open.commit();
        let command = link.until("execute_command");
        assert_eq!(command["command_id"], *submitted.join().unwrap());
    });
}
