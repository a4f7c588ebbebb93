//! Zone files as people write them, and what is said of mistakes in them.

use super::*;
use crate::name;

/// The records of a file, one a line: owner, TTL, type, value in hex or as text where it reads as one.
fn read(text: &str) -> String {
    records(Reader::of(text.as_bytes()))
}

fn records(mut reader: Reader) -> String {
    let mut all = String::new();
    loop {
        match reader.next() {
            Ok(None) => return all,
            Ok(Some(Record { owner, rtype, ttl, rdata, place })) => {
                let owner = name::text(&owner[..owner.len() - 1]);
                let value = match rtype {
                    1 => rdata.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
                    2 | 5 | 12 => name::text(&rdata[..rdata.len() - 1]),
                    16 => rdata.escape_ascii().to_string(),
                    _ => data_encoding::HEXLOWER.encode(rdata),
                };
                all += &format!("{}: {owner} {ttl} {rtype} {value}\n", place.line);
            }
            Err(fault) => return all + &format!("{fault}\n"),
        }
    }
}

/// What is said of one wrong line behind `$ORIGIN z.` and `$TTL 5`.
fn said(line: &str) -> String {
    read(&format!("$ORIGIN z.\n$TTL 5\n{line}\n"))
}

#[test]
fn a_file_is_read_as_it_is_meant() {
    let text = r#"
; a comment, then an origin
$ORIGIN Example.
$TTL 1h30m
@   IN SOA ns1 hostmaster (
        2026112601 ; serial
        1d 2h 4w
        5 )        ; minimum
    IN NS  ns1
ns1 60 A 192.0.2.1
    IN 60 A 192.0.2.2
www 1w IN CNAME ns1.example.
ABS.example. in a 192.0.2.3
*.w AAAA 2001:db8::1
a\.b\032c TXT "quoted ; ( text" bare \"\065 ""
$ORIGIN sub
x PTR @
  TYPE1 \# 4 c0000204
  TYPE65280 \# 3 ab (
     cdef )
"#;
    insta::assert_snapshot!(read(text), @r#"
    5: Example 5400 6 036e7331074578616d706c65000a686f73746d6173746572074578616d706c650078c406590001518000001c200024ea0000000005
    9: Example 5400 2 ns1.Example
    10: ns1.Example 60 1 192.0.2.1
    11: ns1.Example 60 1 192.0.2.2
    12: www.Example 604800 5 ns1.example
    13: ABS.example 5400 1 192.0.2.3
    14: *.w.Example 5400 28 20010db8000000000000000000000001
    15: a\046b\032c.Example 5400 16 \x0fquoted ; ( text\x04bare\x02\"A\x00
    17: x.sub.Example 5400 12 sub.Example
    18: x.sub.Example 5400 1 192.0.2.4
    19: x.sub.Example 5400 65280 abcdef
    "#);
}

#[test]
fn every_usual_type_is_in_wire_form() {
    let lines = [
        "MX 10 mx",
        "SRV 1 2 53 t",
        "CAA 0 issue \"ca.example; a=b\"",
        "NAPTR 100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:i@z!\" .",
        "TLSA 3 1 1 ABcd (\n ef )",
        "SSHFP 4 2 0123",
        "DS 1 8 2 ffff",
        "HINFO PC Linux",
        "RP a b",
        "URI 1 2 \"https://z/\"",
        "OPENPGPKEY AQID",
        "SVCB 0 other",
        "HTTPS 1 . alpn=\"h3,h2\" port=8443 ipv4hint=192.0.2.1,192.0.2.2 no-default-alpn mandatory=port,alpn key65280=x",
    ];
    let all: String = lines.iter().map(|line| said(&format!("n {line}"))).collect();
    insta::assert_snapshot!(all, @r"
    3: n.z 5 15 000a026d78017a00
    3: n.z 5 33 0001000200350174017a00
    3: n.z 5 257 0005697373756563612e6578616d706c653b20613d62
    3: n.z 5 35 0064000a0175074532552b7369700e215e2e2a24217369703a69407a2100
    3: n.z 5 52 030101abcdef
    3: n.z 5 44 04020123
    3: n.z 5 43 00010802ffff
    3: n.z 5 13 025043054c696e7578
    3: n.z 5 17 0161017a000162017a00
    3: n.z 5 256 0001000268747470733a2f2f7a2f
    3: n.z 5 61 010203
    3: n.z 5 64 0000056f74686572017a00
    3: n.z 5 65 000100000000040001000300010006026833026832000200000003000220fb00040008c0000201c0000202ff00000178
    ");
}

#[test]
fn every_mistake_is_named_with_its_line_and_what_to_do() {
    let lines = [
        "n A 192.0.2",
        "n A",
        "n A 192.0.2.1 192.0.2.2",
        "n AAAA 192.0.2.1",
        "n MX 70000 m",
        "n MX ten m",
        "n MX 10",
        "n",
        "n 5 IN",
        "n CH A 192.0.2.1",
        "n ADDRESS 192.0.2.1",
        "n 5x A 192.0.2.1",
        "n 99999999999 A 192.0.2.1",
        "a..b A 192.0.2.1",
        "n TXT \"open",
        "n TXT a\\",
        "n TXT \\999",
        "n TXT \\1x",
        "n TXT a\"b\"",
        "n A ( 192.0.2.1",
        "n A 192.0.2.1 )",
        "n TYPE65280 abcd",
        "n TYPE65280 \\# 3 abcd",
        "n A \\# 3 abcdef",
        "n CNAME \\# 2 05aa",
        "n TYPE255 \\# 0",
        "n DNAME other",
        "n DNSKEY 257 3 8 AQID",
        "n HTTPS 1 . alpn",
        "n HTTPS 1 . port=1 port=2",
        "n HTTPS 1 . mandatory=port",
        "n HTTPS 1 . colour=red",
        "n SSHFP 4 2 012",
        "$ORIGIN",
        "$TTL soon",
        "$GENERATE 1-9 n$ A 192.0.2.$",
        "$INCLUDE other.zone",
        "\"n\" A 192.0.2.1",
    ];
    let all: String = lines.iter().map(|line| said(line)).collect();
    insta::assert_snapshot!(all, @r#"
    zone:3: `192.0.2` where an IPv4 address, as 192.0.2.1 is wanted
    zone:3: nothing behind the type: what is its value?
    zone:3: more behind the value than its type has: is a quote, a `;` or a line end missing?
    zone:3: `192.0.2.1` where an IPv6 address, as 2001:db8::1 is wanted
    zone:3: `70000` where a preference from 0 to 65535 is wanted
    zone:3: `ten` where a preference from 0 to 65535 is wanted
    zone:3: the value ends early: a name behind the preference is missing
    zone:3: a name without a record behind it
    zone:3: a name without a record behind it
    zone:3: class CH: only IN is served
    zone:3: `ADDRESS` is neither a type nor a class; an unknown type is written as TYPE65280
    zone:3: `5x` is no TTL: write seconds, or 1h30m, up to 68 years
    zone:3: `99999999999` is no TTL: write seconds, or 1h30m, up to 68 years
    zone:3: `a..b`: an empty label
    zone:3: a string or escape does not end on its line: close the quotes, and write a line end as \010
    zone:3: a string or escape does not end on its line: close the quotes, and write a line end as \010
    zone:3: \DDD: a byte is from \000 to \255
    zone:3: a backslash is followed by three digits or by one other character
    zone:3: a quote inside a word: put the whole word in quotes, or write \"
    zone:3: the parenthesis that opens in this entry is never closed: add `)`
    zone:3: `)` without `(`
    zone:3: a type without a form of its own is written as `\# LENGTH HEX`
    zone:3: 2 bytes of hex behind \#, where 3 are announced
    zone:3: these bytes are no value of this type
    zone:3: these bytes are no value of this type
    zone:3: this number is not a type that a record can have
    zone:3: DNAME renames whole trees, which is not served: write a CNAME for each name, or a wildcard CNAME
    zone:3: signed zones are not served: give the zone as it is before it is signed
    zone:3: the key alpn needs a value
    zone:3: the key port stands twice
    zone:3: the key port is mandatory and absent
    zone:3: `colour=red` where a key, as alpn=h2,h3 is wanted
    zone:3: not pairs of hex digits: invalid length at 2
    zone:3: $ORIGIN without a value
    zone:3: $TTL takes seconds, or 1h30m, up to 68 years
    zone:3: $GENERATE: the directives are $ORIGIN, $TTL and $INCLUDE
    zone:3: $INCLUDE, where there are no files
    zone:3: "n": a name stands without quotes
    "#);
    insta::assert_snapshot!(read("  A 192.0.2.1\n"), @r"
    zone:1: begins with a blank, and no record before says whose it is: write the name
    ");
    insta::assert_snapshot!(read("n A 192.0.2.1\n"), @r"
    zone:1: `n`: a relative name, and no $ORIGIN says where it ends: end it with a dot, or set $ORIGIN
    ");
    insta::assert_snapshot!(read("n. A 192.0.2.1\n"), @"zone:1: no TTL: write `$TTL 1h` at the top of the file");
    let long = |label: usize, count| format!("{} A 192.0.2.1", vec!["x".repeat(label); count].join("."));
    assert!(said(&long(64, 1)).ends_with("a label of more than 63 bytes\n"));
    assert!(said(&long(63, 4)).ends_with("a name of more than 255 bytes\n"));
    assert!(said(&long(50, 5)).ends_with("with its origin a name of more than 255 bytes\n"));
    assert!(said(&format!("n TXT {}", "x".repeat(256))).contains("256 bytes, where 255 fit"));
    assert!(said(&format!("n TXT ({}", " x".repeat(300_000))).contains("more than 512 KiB"));
}

#[test]
fn includes_stay_in_their_folder_and_give_back_origin_and_owner() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    let all = |path: &Path| records(Reader::open(path)).replace(&folder.path().display().to_string(), "DIR");
    write("zones/sub/hosts", "$TTL 9\nh A 192.0.2.1\n$INCLUDE more x.\n  A 192.0.2.3\n");
    write("zones/sub/more", "m A 192.0.2.2");
    let top = write("zones/top", "$ORIGIN z.\n$TTL 5\nn A 192.0.2.9\n$INCLUDE sub/hosts s\n  A 192.0.2.10\n");
    insta::assert_snapshot!(all(&top), @r"
    3: n.z 5 1 192.0.2.9
    2: h.s.z 9 1 192.0.2.1
    1: m.x 9 1 192.0.2.2
    4: h.s.z 9 1 192.0.2.3
    5: n.z 9 1 192.0.2.10
    ");

    write("secret", "s A 192.0.2.1\n");
    std::os::unix::fs::symlink(folder.path().join("secret"), folder.path().join("zones/link")).unwrap();
    let mut said = String::new();
    for path in ["../secret", "link", "/etc/hostname", "absent", "sub"] {
        said += &all(&write("zones/bad", &format!("$ORIGIN z.\n\n$INCLUDE {path}\n")));
    }
    said += &all(&write("zones/circle", "$INCLUDE circle\n"));
    insta::assert_snapshot!(said, @r"
    DIR/zones/bad:3: DIR/zones/../secret is outside of DIR/zones: a zone file includes from its own folder only
    DIR/zones/bad:3: DIR/zones/link is outside of DIR/zones: a zone file includes from its own folder only
    DIR/zones/bad:3: /etc/hostname is outside of DIR/zones: a zone file includes from its own folder only
    DIR/zones/bad:3: DIR/zones/absent: there is no such file
    DIR/zones/bad:3: DIR/zones/sub: cannot be read: not a file
    DIR/zones/circle:1: files include each other more than 8 deep: is there a circle?
    ");
}
