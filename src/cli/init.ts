export async function init(..._args: unknown[]): Promise<void> {}
