//! The names that are asked, and how an address says of which change it is.
//!
//! All instances of a name get their addresses in one transaction. Behind the 10 of an address are 6 bits of the number of
//! that change, 14 of the name and 4 of the instance, so that every answer shows by itself whether it is whole.

use std::net::Ipv4Addr;

/// Names in the zone.
pub(crate) const NAMES: u32 = 10_000;
/// Instances of each.
pub(crate) const INSTANCES: u32 = 3;
/// Numbers of changes that an address tells apart. The next change of a name comes 20 s after the last, so that two are enough.
const NUMBERS: u32 = 64;

/// Bytes of a header (RFC 1035 §4.1.1), and of an A record whose owner is a pointer (§4.1.3).
const HEADER: usize = 12;
const RECORD: usize = 16;

/// The address of an instance, counted from 1, after so many changes of its name.
pub(crate) fn address(name: u32, changes: u32, instance: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((10 << 24) | ((changes % NUMBERS) << 18) | (name << 4) | instance)
}

/// The name that a container's id says it is an instance of.
pub(crate) fn of_container(id: &str) -> Option<u32> {
    id.get(..8)?.parse().ok()
}

fn container(name: u32, instance: u32) -> String {
    format!("{name:08}{instance:04}")
}

/// Statements that make all names, each pair in a transaction; one may change 10,000 cells at most.
pub(crate) fn inserts() -> impl Iterator<Item = [String; 2]> {
    const TOGETHER: u32 = 100;
    (0..NAMES).step_by(TOGETHER as usize).map(|first| {
        let names = first..(first + TOGETHER).min(NAMES);
        let services: Vec<_> = names.clone().map(|name| format!("('busy', 'n{name}')")).collect();
        let container = |name: u32| {
            (1..=INSTANCES).map(move |i| {
                format!("('{}', 'busy', 'n{name}', 's', '{i}', '{}', 1)", container(name, i), address(name, 0, i))
            })
        };
        let containers: Vec<_> = names.flat_map(container).collect();
        [
            format!("INSERT INTO services (project, name) VALUES {}", services.join(", ")),
            format!(
                "INSERT INTO containers (id, project, service, server_id, instance_id, ip, started_at) VALUES {}",
                containers.join(", ")
            ),
        ]
    })
}

/// The statement of one change.
pub(crate) fn update(name: u32, changes: u32) -> String {
    let (mut cases, mut ids) = (String::new(), Vec::new());
    for instance in 1..=INSTANCES {
        cases.push_str(&format!(" WHEN '{instance}' THEN '{}'", address(name, changes, instance)));
        ids.push(format!("'{}'", container(name, instance)));
    }
    format!("UPDATE containers SET ip = CASE instance_id{cases} END WHERE id IN ({})", ids.join(", "))
}

/// A question for the addresses of `host` in the zone, as a program in a container asks: without EDNS.
pub(crate) fn question(labels: &[&str]) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// The question for a name of ours.
pub(crate) fn question_for(name: u32) -> Vec<u8> {
    question(&[&format!("busy-n{name}"), "internal"])
}

/// Of which change an answer to `question` is, modulo [`NUMBERS`].
pub(crate) fn read(name: u32, question: &[u8], reply: &[u8]) -> Result<u32, String> {
    let said = |what: &str| Err(format!("busy-n{name}: {what}: {reply:02x?}"));
    if reply.len() != question.len() + INSTANCES as usize * RECORD
        || reply[HEADER..question.len()] != question[HEADER..]
    {
        return said("not the answer of three addresses");
    }
    if reply[2] & 0x82 != 0x80 || reply[3] & 15 != 0 || reply[6..HEADER] != [0, INSTANCES as u8, 0, 0, 0, 0] {
        return said("its header is another");
    }
    let (records, _) = reply[question.len()..].as_chunks::<RECORD>();
    let (mut instances, mut numbers) = (0, [0; INSTANCES as usize]);
    for (record, number) in records.iter().zip(&mut numbers) {
        let [.., b1, b2, b3, b4] = *record;
        let bits = u32::from_be_bytes([b1, b2, b3, b4]);
        if record[..6] != [0xc0, 0x0c, 0, 1, 0, 1] || bits >> 24 != 10 || bits >> 4 & 0x3fff != name {
            return said("a record is of something else");
        }
        instances |= 1 << (bits & 15);
        *number = bits >> 18 & (NUMBERS - 1);
    }
    if instances != (1 << (INSTANCES + 1)) - 2 {
        return said("not each instance once");
    }
    if numbers.iter().any(|number| *number != numbers[0]) {
        return said("a mix of two changes");
    }
    Ok(numbers[0])
}

/// Whether what an answer says can be of this change.
pub(crate) fn is_of(read: u32, changes: u32) -> bool {
    read == changes % NUMBERS
}
