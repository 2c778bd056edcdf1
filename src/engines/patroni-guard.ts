/**
 * How Patroni is started: by its own interpreter, with one mistake of older versions put right first.
 *
 * Patroni before 3.0.3 (Debian 12 has 3.0.2), with etcd's third interface, writes the leader's key without
 * looking whose it is when its own lease has expired. A primary's machine that slept, its PostgreSQL dead, then
 * takes the lead from the one that was elected meanwhile and has acknowledged writes, and promotes its old data
 * on a timeline of the same number: those writes are lost, and no server can follow another any more. Seen by the
 * witness (test/operate/database/faults.test.ts); mended in https://github.com/patroni/patroni/pull/2689.
 *
 * Holds true here: the key is written under a new lease only while it still names this node. Else the lead is
 * given up, and all take part in the election as ever.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';

/** The Python program that is run in Patroni's place; its arguments are Patroni and Patroni's own. */
export const PATRONI_LAUNCHER = `"""Runs Patroni. Written by Banyan: see src/engines/patroni-guard.ts there."""
import runpy
import sys

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


if tuple(int(part) for part in __version__.split('.')[:3]) < (3, 0, 3):
    import patroni.dcs.etcd3
    guard(patroni.dcs.etcd3)

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
