//! Docker's answer about one container, in our words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use bollard::models::{ContainerInspectResponse, ContainerState, HealthStatusEnum};

use super::{Addresses, Container};
use crate::health::{DockerVerdict, Run};

/// The container, if the answer says which one it is.
pub(super) fn container(answer: ContainerInspectResponse) -> Option<Container> {
    let id = answer.id?;
    let config = answer.config.unwrap_or_default();
    let state = answer.state.unwrap_or_default();
    let mode = answer.host_config.and_then(|host| host.network_mode);
    let networks = answer.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let address = |text: Option<String>| text.and_then(|text| text.parse::<IpAddr>().ok());
    let networks = networks.into_iter().map(|(name, endpoint)| {
        let ip = match address(endpoint.ip_address) {
            Some(IpAddr::V4(ip)) => Some(ip),
            Some(IpAddr::V6(_)) | None => None,
        };
        let ip6 = match address(endpoint.global_ipv6_address) {
            Some(IpAddr::V6(ip)) => Some(ip),
            Some(IpAddr::V4(_)) | None => None,
        };
        (name, Addresses { ip, ip6 })
    });
    Some(Container {
        id,
        name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>(),
        run: run(&state),
        checked: verdict(&state).is_some(),
        networks: networks.collect(),
        on_host: mode.as_deref() == Some("host"),
    })
}

/// The name of a container, and the path of its own `resolv.conf`. One in the host's network uses the host's.
pub(super) fn resolver(answer: ContainerInspectResponse) -> (String, Option<PathBuf>) {
    let on_host = answer.host_config.and_then(|host| host.network_mode).is_some_and(|mode| mode == "host");
    let path = answer.resolv_conf_path.filter(|path| !on_host && !path.is_empty());
    (answer.name.unwrap_or_default().trim_start_matches('/').to_owned(), path.map(PathBuf::from))
}

/// A container that is being started again counts as running for Docker, and not for us.
fn run(state: &ContainerState) -> Run {
    let is = |flag: Option<bool>| flag == Some(true);
    if is(state.paused) {
        Run::Paused
    } else if is(state.running) && !is(state.restarting) && !is(state.dead) {
        let started_ms = state.started_at.as_deref().and_then(milliseconds).unwrap_or(0);
        Run::Running { started_ms, verdict: verdict(state) }
    } else {
        Run::Stopped
    }
}

fn verdict(state: &ContainerState) -> Option<DockerVerdict> {
    match state.health.as_ref()?.status? {
        HealthStatusEnum::STARTING => Some(DockerVerdict::Starting),
        HealthStatusEnum::HEALTHY => Some(DockerVerdict::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(DockerVerdict::Unhealthy),
        HealthStatusEnum::NONE | HealthStatusEnum::EMPTY => None,
    }
}

/// Milliseconds since 1970 of a time as Docker writes it (RFC 3339): `2026-11-26T22:04:39.123456789Z`, or with an offset,
/// as Podman does. Earlier ones are 0.
fn milliseconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let fraction = if digits == 0 { "" } else { rest.get(1..=digits)? };
    let milli = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok()?;
    let zone = rest.get(if digits == 0 { 0 } else { digits + 1 }..)?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            sign * (zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?)
        }
    };
    // Days since 1970, of years that begin in March, so that the leap day is the last.
    let (from_march, year) = if month > 2 { (month - 3, year) } else { (month + 9, year - 1) };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (from_march * 153 + 2) / 5
        + day
        - 1
        - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    Some((seconds * 1000 + milli).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_docker_and_podman_write_them() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00.5Z", Some(951_825_600_500)),
            ("2026-11-26T22:04:39.123456789Z", Some(1_795_730_679_123)),
            ("2026-11-27T00:04:39.12+02:00", Some(1_795_730_679_120)),
            ("2026-11-26T17:34:39-04:30", Some(1_795_730_679_000)),
            ("0001-01-01T00:00:00Z", Some(0)),
            ("", None),
            ("yesterday", None),
            ("2026-11-26T22:04:39", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_without_anything_is_a_container_that_does_not_run() {
        let answer = ContainerInspectResponse { id: Some("a".to_owned()), ..Default::default() };
        let container = container(answer).unwrap();
        assert_eq!((container.run, container.checked, container.on_host), (Run::Stopped, false, false));
        assert_eq!(super::container(ContainerInspectResponse::default()), None);
    }

    #[test]
    fn what_is_being_started_again_or_frozen_does_not_run() {
        let state = |paused, restarting, dead| ContainerState {
            running: Some(true),
            paused: Some(paused),
            restarting: Some(restarting),
            dead: Some(dead),
            started_at: Some("1970-01-01T00:00:01Z".to_owned()),
            ..Default::default()
        };
        assert_eq!(run(&state(false, false, false)), Run::Running { started_ms: 1000, verdict: None });
        assert_eq!(run(&state(true, false, false)), Run::Paused);
        assert_eq!(run(&state(false, true, false)), Run::Stopped);
        assert_eq!(run(&state(false, false, true)), Run::Stopped);
    }
}
