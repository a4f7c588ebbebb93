# systemd-resolved with the server at 127.0.0.1 behind it: resolved.sh FOLDER PROGRAM, in mounts of its own (`unshare --mount`).
# It needs no bus, but a user of its own, a folder in /run and nothing of this host's configuration.
set -eu
folder=$1 program=$2 id=991
cat >"$folder/resolved.conf" <<'END'
[Resolve]
DNS=127.0.0.1
Domains=casa.svc.internal internal
DNSSEC=no
Cache=no
LLMNR=no
MulticastDNS=no
END
for file in passwd group; do grep -v '^systemd-resolve:' /etc/$file >"$folder/$file"; done
echo "systemd-resolve:x:$id:$id::/:/usr/sbin/nologin" >>"$folder/passwd"
echo "systemd-resolve:x:$id:" >>"$folder/group"
for file in passwd group; do mount --bind "$folder/$file" /etc/$file; done
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/resolved.conf.d /run/systemd/resolve
chown $id:$id /run/systemd/resolve
cp "$folder/resolved.conf" /run/systemd/resolved.conf.d/
SYSTEMD_LOG_TARGET=console exec "$program"
