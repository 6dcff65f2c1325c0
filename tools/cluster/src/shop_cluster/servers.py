"""The backing servers: what each needs on disk before it starts, and how it is started."""

import base64
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from shop_cluster import programs
from shop_cluster.ports import HOST
from shop_cluster.state import State, server_user
from shop_cluster.supervise import Program

SUPERUSER = "postgres"
INITDB_OPTIONS = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
_BARE_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Without the optimising compiler: up for half of the processor time, which counts where little is done."""


def postgres(state: State) -> Program:
    binaries = programs.find_postgres(state)
    data = state.postgres_folder
    account = server_user()
    if not data.exists():
        _init_postgres(state, binaries, data)
    settings = {
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "max_connections": "300",
        "password_encryption": "scram-sha-256",
    }
    if not state.durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return Program(
        "postgres",
        [str(binaries / "postgres"), "-D", str(data), "-p", str(state.ports["postgres"]), *options],
        user=account.pw_name if account else None,
        stop_signal="INT",
    )


def _init_postgres(state: State, binaries: Path, data: Path) -> None:
    """Make the database cluster beside its place and move it there whole, so that an interrupted run leaves none."""
    account = server_user()
    part = data.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    password = part.with_suffix(".password")
    password.touch(mode=0o600)
    password.write_text(state.secret("postgres_superuser"))
    if account:
        os.chown(part, account.pw_uid, account.pw_gid)
        os.chown(password, account.pw_uid, account.pw_gid)
    try:
        programs.run(
            [str(binaries / "initdb"), "-D", str(part), "-U", SUPERUSER, f"--pwfile={password}", *INITDB_OPTIONS],
            "initdb, which makes PostgreSQL's files,",
            "see the lines above",
            folder=part,
            account=account,
        )
    finally:
        password.unlink()
    part.rename(data)


def redis(state: State) -> Program:
    data = state.place("redis", "data")
    data.mkdir(exist_ok=True)
    options = {
        "bind": HOST,
        "port": str(state.ports["redis"]),
        "dir": str(data),
        "save": "",  # it holds a cache and rate limits: nothing that must survive
        "appendonly": "no",
        "maxmemory": "128mb",
        "maxmemory-policy": "allkeys-lru",
        "set-proc-title": "no",  # the title overwrites the environment by which leftovers are known
    }
    return Program(
        "redis",
        [str(programs.find_redis()), *(part for name, value in options.items() for part in (f"--{name}", value))],
    )


def kafka(state: State) -> Program:
    java, jars = str(programs.find_jdk() / "java"), programs.fetch_jars("kafka")
    data, config = state.place("kafka", "data"), state.place("kafka", "server.properties")
    broker, controller = (f"{HOST}:{state.ports[name]}" for name in ("kafka", "kafka_controller"))
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"CLIENT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"CLIENT://{broker}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "broker.session.timeout.ms": "3000",  # for so long one that was killed is not taken back
        "broker.heartbeat.interval.ms": "500",
    }
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    common = ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    common += [*_BARE_JVM, "-cp", f"{jars}/*"]
    if not (data / "meta.properties").exists():
        cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        programs.run(
            [
                java,
                "-Xmx256m",
                *common,
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster_id}",
                "-c",
                str(config),
            ],
            "formatting Kafka's storage",
            "see the lines above",
        )
    return Program("kafka", [java, "-Xmx512m", *common, "kafka.Kafka", str(config)])


def mongo(state: State) -> Program:
    data = state.place("mongo", "data")
    data.mkdir(exist_ok=True)
    port = str(state.ports["mongo"])
    mongod = programs.find_mongod()
    if mongod:
        server = [str(mongod), "--replSet", "rs0", "--bind_ip", HOST, "--port", port, "--dbpath", str(data)]
        return Program("mongo", [*server, "--wiredTigerCacheSizeGB", "0.5"])
    java, jars = str(programs.find_jdk() / "java"), programs.fetch_jars("mongo")
    classes = programs.compile_mongo_stand_in(jars)
    # It scans: the optimising compiler is worth its price where it lives long.
    tuning = () if state.durable else _BARE_JVM
    store = str(data / "store.mv")
    command = [java, "-Xmx512m", *tuning, "-cp", f"{jars}/*:{classes}", "MongoStandIn", HOST, port, store]
    return Program("mongo", command)


def mail(state: State) -> Program:
    return Program("mail", [sys.executable, "-m", "shop_cluster.mail", str(state.ports["mail"]), str(state.mailbox)])


SERVERS: Mapping[str, Callable[[State], Program]] = {
    "postgres": postgres,
    "redis": redis,
    "kafka": kafka,
    "mongo": mongo,
    "mail": mail,
}
