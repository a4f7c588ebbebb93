//! What each resolver asks, and what it must get.

use crate::host::MANY;

pub(crate) const QUESTIONS: [&str; 11] = [
    "HOST:casa-api.internal",
    "A:casa-api.internal",
    "AAAA:casa-api.internal",
    "A:casa-six.internal",
    "HOST:casa-six.internal",
    "HOST:casa-none.internal",
    "HOST:nobody.internal",
    "HOST:casa-api", // by the last search suffix
    "A:api",         // by the first
    "SRV:_http._tcp.casa-api.internal",
    "TXT:vms.casa-api.internal",
];

/// The answers to [`QUESTIONS`]. Not every resolver tells a name without such records from one that is not there: `nodata`
/// is what it says of one family, `none` of both.
pub(crate) fn answers(nodata: &str, none: &str) -> Vec<String> {
    vec![
        "HOST:casa-api.internal 10.210.1.1 10.210.1.2 fd10::1".to_owned(),
        "A:casa-api.internal 10.210.1.1 10.210.1.2".to_owned(),
        "AAAA:casa-api.internal fd10::1".to_owned(),
        format!("A:casa-six.internal {nodata}"),
        "HOST:casa-six.internal fd10::6".to_owned(),
        format!("HOST:casa-none.internal {none}"),
        "HOST:nobody.internal NXDOMAIN".to_owned(),
        "HOST:casa-api 10.210.1.1 10.210.1.2 fd10::1".to_owned(),
        "A:api 10.210.1.1 10.210.1.2".to_owned(),
        "SRV:_http._tcp.casa-api.internal 8080/aaaaaaaaaaa1.vm.casa-api.internal 8080/aaaaaaaaaaa2.vm.casa-api.internal"
            .to_owned(),
        "TXT:vms.casa-api.internal aaaaaaaaaaa1,aaaaaaaaaaa2".to_owned(),
    ]
}

/// A question whose answer fits into no datagram of ours.
pub(crate) const MANY_OF_THEM: &str = "HOST:casa-many.internal";

/// The answer over TCP: all of them.
pub(crate) fn all_many(question: &str) -> Vec<String> {
    let mut addresses: Vec<_> = (0..MANY).map(|number| format!("10.210.2.{number}")).collect();
    addresses.sort();
    vec![format!("{question} {}", addresses.join(" "))]
}
