/**
 * How Patroni is started: by its own interpreter, with what older versions get wrong, or do slowly, put right first.
 *
 * **Wrong.** Patroni before 3.0.3 (Debian 12 has 3.0.2), with etcd's third interface, writes the leader's key without
 * looking whose it is when its own lease has expired. A primary's machine that slept, its PostgreSQL dead, then
 * takes the lead from the one that was elected meanwhile and has acknowledged writes, and promotes its old data
 * on a timeline of the same number: those writes are lost, and no server can follow another any more. Seen by the
 * witness (test/operate/database/faults.test.ts); mended in https://github.com/patroni/patroni/pull/2689.
 * With this, the key is written under a new lease only while it still names this node. Else the lead is given up,
 * and all take part in the election as ever.
 *
 * **Wrong, too.** Its rounds, leases and deadlines go by the time of day. When the clock of the primary's machine is
 * set back by an hour, it sleeps for an hour, while another is elected and waits for it to follow
 * (test/operate/database/clock.test.ts). With this they go by the clock that nobody sets.
 *
 * **Slow** (bench/failover.ts; of the 5 s without writes after the primary's process was killed):
 * - The death is noticed by the next round, a second apart; one that is asking PostgreSQL something meanwhile
 *   goes on to ask for 1.5 s more (`retry_timeout / 2`); in a container it can look alive for 2 s. So it is told at
 *   once, looks whether it is a zombie, and does not ask the dead again.
 * - Whether the promoted server takes writes is looked at once a second, and its replicas' slots are made after
 *   that; until one of them is there, commits wait. So it is looked at ten times a second.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';

/** The Python program that is run in Patroni's place; its arguments are Patroni and Patroni's own. */
export const PATRONI_LAUNCHER = `"""Runs Patroni. Written by Banyan: see src/engines/patroni-guard.ts there."""
import importlib
import os
import runpy
import select
import sys
import threading
import time

from patroni.version import __version__


def guard(etcd3):
    @etcd3.catch_return_false_exception
    def update_leader(self):
        retry = self._retry.copy()

        def retried(*args, **kwargs):
            kwargs['retry'] = retry
            return retry(*args, **kwargs)

        before = self._lease
        self._run_and_handle_exceptions(self._do_refresh_lease, True, retry=retried)
        leader = self.cluster and self.cluster.leader
        if not self._lease:
            return False
        if isinstance(leader, etcd3.Leader) and leader.session == self._lease:
            return True
        # Not seen under this lease: is it ours all the same?
        key = etcd3.base64_encode(self.leader_path)
        name = etcd3.base64_encode(self._name)
        ours = {'key': key, 'target': 'VALUE', 'value': name}
        put = {'key': key, 'value': name, 'lease': self._lease}
        if self._run_and_handle_exceptions(
                self._client.txn, ours, {'request_put': put}, retry=retried):
            return True
        # With the old lease there was no time in which another could have led.
        return before == self._lease and bool(self._run_and_handle_exceptions(
            self._client.put, self.leader_path, self._name, self._lease,
            create_revision='0', retry=retried))

    etcd3.Etcd3._update_leader = update_leader


def quicken(postgresql, postmaster, ha):
    every = postgresql.polling_loop
    postgresql.polling_loop = lambda timeout, interval=0.1: every(timeout, interval)

    query = postgresql.Postgresql._query

    def query_the_living(self, *args):
        try:
            return query(self, *args)
        except postgresql.PostgresConnectionException as error:
            if self.is_running():
                raise
            raise postgresql.RetryFailedError(str(error))

    postgresql.Postgresql._query = query_the_living

    # In a container whose first process takes its time to bury the dead, they look alive.
    process = postmaster.PostmasterProcess
    is_running = process.is_running
    is_postmaster = process._is_postmaster_process

    def is_dead(self):
        try:
            return self.status() == postmaster.psutil.STATUS_ZOMBIE
        except postmaster.psutil.NoSuchProcess:
            return True

    process.is_running = lambda self: is_running(self) and not is_dead(self)
    process._is_postmaster_process = lambda self: not is_dead(self) and is_postmaster(self)

    def tell_of_its_end(self):
        seen = None
        while True:
            process = self.state_handler._postmaster_proc
            if process is None or process.pid == seen:
                time.sleep(0.2)
                continue
            try:
                handle = os.pidfd_open(process.pid)
            except OSError:
                time.sleep(0.2)
                continue
            ending = select.poll()
            ending.register(handle, select.POLLIN)
            ending.poll()
            os.close(handle)
            seen = process.pid
            self.wakeup()

    begin = ha.Ha.__init__

    def begin_watching(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        # Linux has this, from Python 3.9 on.
        if hasattr(os, 'pidfd_open'):
            threading.Thread(target=tell_of_its_end, args=(self,), daemon=True).start()

    ha.Ha.__init__ = begin_watching


class SteadyTime:
    """The time of day when this began, and what has passed since by the clock that nobody sets."""
    begun = time.time() - time.monotonic()

    def time(self):
        return self.begun + time.monotonic()

    def __getattr__(self, name):
        return getattr(time, name)


def steady():
    for name in ('__main__', 'api', 'ha', 'utils', 'dcs', 'dcs.etcd', 'dcs.etcd3', 'postgresql'):
        importlib.import_module('patroni.' + name).time = SteadyTime()


version = tuple(int(part) for part in __version__.split('.')[:3])
if version[:2] == (3, 0):
    import patroni.dcs.etcd3
    import patroni.ha
    import patroni.postgresql
    import patroni.postgresql.postmaster
    if version < (3, 0, 3):
        guard(patroni.dcs.etcd3)
    quicken(patroni.postgresql, patroni.postgresql.postmaster, patroni.ha)
    steady()

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
`;

/** @param folder the node's */
export function launcherFileOf(folder: string): string {
  return path.join(folder, 'launch.py');
}

/** The interpreter that an installed Python program names in its first line: its modules are that one's. */
export function interpreterOf(program: string): string {
  const [firstLine = ''] = readFileSync(program, 'utf8').split('\n', 1);
  const [interpreter = '', argument] = firstLine.replace(/^#!\s*/, '').split(/\s+/);
  // "#!/usr/bin/env python3"
  return (path.basename(interpreter) === 'env' ? argument : interpreter) || 'python3';
}
