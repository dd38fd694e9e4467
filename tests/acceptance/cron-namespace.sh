# A real cron in a mount namespace of its own, which sees no crontab of this machine but the one given:
#   unshare --mount --kill-child sh cron-namespace.sh USER CRONTAB-FILE
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /var/spool/cron
mkdir -m 1730 /var/spool/cron/crontabs
chgrp crontab /var/spool/cron/crontabs
mount -t tmpfs tmpfs /etc/cron.d
mount --bind /dev/null /etc/crontab
mount -t tmpfs -o mode=755 tmpfs /run
crontab -u "$1" "$2"
exec cron -f -L 7
