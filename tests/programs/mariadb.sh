# MariaDB: mariadbd, mariadb.

prepare() {
    mariadb-install-db --no-defaults --user=root --datadir="$CACHE/data" --skip-test-db > /dev/null 2>&1
    cat > "$CACHE/first.sql" <<END
create user if not exists 'user'@'%' identified by 'secret';
grant all on *.* to 'user'@'%';
create database if not exists work;
END
}

serve() {
    [ -e "$SERVER/data" ] || cp -a "$CACHE/data" "$SERVER/data"
    # There is no DNS in a pod of the laboratory: each name that is asked for costs 5 s.
    exec mariadbd --no-defaults --user=root --datadir="$SERVER/data" --socket="$SERVER/socket" \
        --pid-file="$SERVER/pid" --init-file="$CACHE/first.sql" --innodb-flush-log-at-trx-commit=0 --skip-name-resolve
}

normalize() { sed -E "s/^(.*system error: )\"?[0-9]+\"?.*/\1N/"; }

sql() { mariadb --no-defaults --protocol=tcp -h "$HOST" -u user -p"${password:-secret}" "$@"; }

queries() {
    sql -e 'select 1 as one; select count(*) from information_schema.engines where engine = "InnoDB"'
    sql work -e 'create or replace table numbers (n int, text varchar(100)); insert into numbers select seq, repeat("x", seq % 100) from seq_1_to_50000; select count(*), sum(n) from numbers'
    sql work -N -e 'select * from numbers' | sha256sum
    sql work -N -e 'select repeat("0123456789", 800000)' | sha256sum
    (echo -n "select length('"; bytes 3000000 | base64 -w0; echo "')") | sql -N
    sql -e 'select nonsense'
}

addresses() { sql -N -e 'select user(), current_user(); select host from information_schema.processlist where id = connection_id()' | sed -E 's/:[0-9]+$/:PORT/'; }

wrong_password() { password=wrong sql -e 'select 1'; }

refused() { sql -e 'select 1'; }

sleeps() { [ "$(sql -N -e "select count(*) from information_schema.processlist where info = '$1'")" = 1 ]; }
is_gone() { [ "$(sql -N -e "select count(*) from information_schema.processlist where info = '$1'")" = 0 ]; }

client_killed() {
    mariadb --no-defaults --protocol=tcp -h "$HOST" -u user -psecret -e 'select sleep(1000)' &
    wait_for sleeps 'select sleep(1000)'
    kill -9 $!
    wait $! 2>/dev/null
    wait_for is_gone 'select sleep(1000)'
    echo "the server knows"
}

server_killed() {
    sql -e 'select sleep(1001)' &
    wait_for sleeps 'select sleep(1001)'
    kill_server
    wait $!
    echo "status $?"
}
