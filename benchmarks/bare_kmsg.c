/* The least that a C program can do with /dev/kmsg: poll, read, look for a word.
 *
 *   bare_kmsg times MARKER           until stdin ends; then prints, as a JSON list, CLOCK_MONOTONIC in ns at
 *                                    which each record with MARKER was read
 *   bare_kmsg flood PATH LAST WORD   until a record holds LAST; then prints records read, records lost by
 *                                    sequence number, processor seconds used, records with WORD
 *
 * Says "ready" once it hears. See benchmarks/peers.py for the same in Python.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The longest record that the kernel hands out (CONSOLE_EXT_LOG_MAX); a shorter buffer gets EINVAL. */
#define RECORD_BYTES 8192
#define TIMES 100000

static int64_t now(clockid_t clock)
{
	struct timespec at;

	clock_gettime(clock, &at);
	return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static int open_log(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0) {
		perror(path);
		exit(1);
	}
	lseek(fd, 0, SEEK_END); /* refused by the FIFO that stands in for the log, which has no past */
	puts("ready");
	fflush(stdout);
	return fd;
}

/* The next record as a string, or false when there is none now. What the kernel overwrote is passed over. */
static int next_record(int fd, char *record)
{
	ssize_t size;

	do
		size = read(fd, record, RECORD_BYTES - 1);
	while (size < 0 && errno == EPIPE);
	if (size < 0 && errno != EAGAIN) {
		perror("read");
		exit(1);
	}
	record[size > 0 ? size : 0] = '\0';
	return size > 0;
}

static int times(const char *marker)
{
	static int64_t seen[TIMES];
	static char record[RECORD_BYTES];
	int count = 0;
	struct pollfd from[] = {{open_log("/dev/kmsg"), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};

	for (;;) {
		poll(from, 2, -1);
		while (next_record(from[0].fd, record))
			if (strstr(record, marker) && count < TIMES)
				seen[count++] = now(CLOCK_MONOTONIC);
		if (from[1].revents)
			break;
	}
	for (int i = 0; i < count; i++)
		printf("%s%" PRId64, i ? ", " : "[", seen[i]);
	puts(count ? "]" : "[]");
	return 0;
}

static int flood(const char *path, const char *last, const char *word)
{
	static char record[RECORD_BYTES];
	int64_t began, expected = -1, read = 0, lost = 0, matched = 0;
	struct pollfd from = {open_log(path), POLLIN, 0};

	began = now(CLOCK_PROCESS_CPUTIME_ID);
	for (;;) {
		poll(&from, 1, -1);
		while (next_record(from.fd, record)) {
			int64_t sequence = strtoll(strchr(record, ',') + 1, NULL, 10);

			read++;
			lost += expected < 0 ? 0 : sequence - expected;
			expected = sequence + 1;
			matched += strstr(record, word) != NULL;
			if (strstr(record, last)) {
				printf("{\"read\": %" PRId64 ", \"lost\": %" PRId64 ", \"cpu_s\": %.9f, "
				       "\"matched\": %" PRId64 "}\n",
				       read, lost, (now(CLOCK_PROCESS_CPUTIME_ID) - began) / 1e9, matched);
				return 0;
			}
		}
	}
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "times"))
		return times(words[2]);
	if (count == 5 && !strcmp(words[1], "flood"))
		return flood(words[2], words[3], words[4]);
	fputs("bare_kmsg times MARKER | flood PATH LAST WORD\n", stderr);
	return 2;
}
