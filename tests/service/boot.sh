#!/bin/bash
# The init of a machine of its own: this one's systemd over a throw-away root. Called by machine.py in new mount, PID, UTS, IPC
# and cgroup namespaces: boot.sh FOLDER [SOURCE TARGET]... ; what SOURCE holds is seen, read-only, at TARGET inside.
set -e
folder=$1; shift
mount --make-rprivate /
mount -t tmpfs none "$folder"
mkdir "$folder"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
cd "$folder/root"
while [ $# -gt 0 ]; do
  mkdir -p "./$2"; mount --bind "$1" "./$2"; mount -o remount,bind,ro "./$2"; shift 2
done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
else
  mount -t tmpfs tmpfs sys/fs/cgroup
  mkdir sys/fs/cgroup/systemd; mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
  for controller in memory cpu cpuacct pids devices; do
    mkdir "sys/fs/cgroup/$controller"; mount -t cgroup -o "$controller" cgroup "sys/fs/cgroup/$controller"
  done
fi
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
# Nothing of this machine's own services: a bus, a journal, and what is installed in the tests.
rm -rf etc/systemd/system; mkdir -p etc/systemd/system/multi-user.target.wants
printf '[Unit]\nRequires=dbus.socket systemd-journald.socket basic.target\nWants=multi-user.target\nAfter=basic.target\n' > etc/systemd/system/test.target
ln -s /etc/systemd/system/test.target etc/systemd/system/default.target
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
  systemd-networkd.service systemd-resolved.service systemd-logind.service systemd-timesyncd.service getty.target \
  systemd-firstboot.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
  sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount systemd-modules-load.service \
  systemd-sysctl.service kmod-static-nodes.service systemd-remount-fs.service systemd-tmpfiles-setup-dev.service \
  systemd-ask-password-wall.path systemd-user-sessions.service; do
  ln -s /dev/null "etc/systemd/system/$unit"
done
echo > etc/fstab
: > etc/machine-id
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
  chroot . /lib/systemd/systemd --system --log-target=journal --show-status=no
