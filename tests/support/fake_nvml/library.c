/* A libnvidia-ml.so.1 without a GPU: what nvidia-ml-py loads in the tests.
 *
 * Everything it answers stands in the text file $FAKE_NVML_SCENARIO, read again whenever that file
 * changes (replace it by rename). One entry a line, a later line beats an earlier one:
 *
 *   gpus 0 1 2 3                                the GPUs that are there, in the order of their index
 *   nvmlDeviceGetPowerUsage 125025              what the function answers, for every GPU
 *   3.nvmlDeviceGetPowerUsage 90000             ... for GPU 3
 *   nvmlDeviceGetTemperatureThreshold(1) 89     ... for these arguments
 *   nvmlDeviceGetName "NVIDIA H200"             strings in quotes; the members of a structure in order
 *   nvmlDeviceGetComputeRunningProcesses_v3 -   an empty list
 *   field(150) 0 5 -8 3                         a field value: return code, type, value, latency in us
 *   field(94,7) 0 1 26562 3                     ... of scope 7
 *   3m0.nvmlDeviceGetUUID "MIG-..."             the first MIG device of GPU 3; mig.NAME: of all of them
 *   event(1) 3 8 79                             the first event: GPU, type, data; event(2) the second
 *   generation 2                                the driver was loaded anew: who initialised before is
 *   stale 1                                     ... answered this error (1, uninitialised, if not said)
 *
 * Instead of an answer: `error CODE`, `hang`, `crash` (SIGSEGV), `exit STATUS`, `write PATH` (write a
 * byte there first: on a frozen file system that is an uninterruptible sleep). `3.*` and `*` say it for
 * every function. KEY@us N makes a call take N microseconds, KEY@first N the first such call of a process;
 * field@us 1 adds the latencies of fields.
 * A function nobody mentions answers NOT_SUPPORTED; one not in functions.txt is not in the library.
 * With $FAKE_NVML_LOG every call is appended there as "PID FUNCTION GPU".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 6, INSUFFICIENT_SIZE, TIMEOUT = 10 };
enum { NO_ATTACH = 2, SLOTS = 1 << 15, DEVICES = 256, VALUE = 1024, KEY = 160 };

typedef struct device { char id[16]; } *device;
typedef struct { uint64_t mask[DEVICES]; } event_set;
typedef struct { device device; uint64_t type, data; uint32_t gi, ci; } event_data;
typedef struct { uint32_t field, scope; int64_t timestamp, latency; uint32_t type, rc; uint64_t value; } field_value;

static struct { char *key, *value; } table[SLOTS];
static struct device devices[DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct stat loaded;
static int initialised;
static unsigned flags;
static long long born, next_event = 1;

/* --- the scenario --- */

static unsigned slot(const char *key) {
    unsigned h = 5381;
    for (const char *c = key; *c; c++) h = h * 33 ^ (unsigned char)*c;
    for (h %= SLOTS; table[h].key && strcmp(table[h].key, key); h = (h + 1) % SLOTS) {}
    return h;
}

static void load(void) {
    const char *path = getenv("FAKE_NVML_SCENARIO");
    struct stat now;
    if (!path || stat(path, &now)) return;
    if (now.st_ino == loaded.st_ino && now.st_size == loaded.st_size && now.st_mtim.tv_sec == loaded.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == loaded.st_mtim.tv_nsec) return;
    FILE *file = fopen(path, "re");
    if (!file) return;
    for (int i = 0; i < SLOTS; i++) { free(table[i].key); free(table[i].value); table[i].key = table[i].value = NULL; }
    char line[VALUE + KEY];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *gap = strchr(line, ' ');
        if (*line == '#' || !gap) continue;
        *gap = 0;
        unsigned s = slot(line);
        if (!table[s].key) table[s].key = strdup(line);
        free(table[s].value);
        table[s].value = strdup(gap + 1);
    }
    fclose(file);
    loaded = now;
}

/* Copies the value of KEY; 0 if nobody gave one. */
static int get(const char *key, char *value) {
    pthread_mutex_lock(&lock);
    load();
    unsigned s = slot(key);
    int found = table[s].value != NULL;
    if (found) snprintf(value, VALUE, "%s", table[s].value);
    pthread_mutex_unlock(&lock);
    return found;
}

static long long number(const char *key, long long otherwise) {
    char value[VALUE];
    return get(key, value) ? strtoll(value, NULL, 0) : otherwise;
}

/* The most exact entry for this GPU, function and arguments. */
static int find(device d, const char *name, const char *arguments, const char *suffix, char *value) {
    char key[KEY];
    const char *owner = d && strchr(d->id, 'm') ? "mig" : NULL;
    for (int pass = d ? 0 : 2; pass < 3; pass++) {
        if (pass == 1 && !owner) continue;
        if (pass == 2 && owner) break;
        const char *who = pass == 0 ? d->id : pass == 1 ? owner : "";
        const char *dot = pass == 2 ? "" : ".";
        snprintf(key, sizeof key, "%s%s%s(%s)%s", who, dot, name, arguments, suffix);
        if (*arguments && get(key, value)) return 1;
        snprintf(key, sizeof key, "%s%s%s%s", who, dot, name, suffix);
        if (get(key, value)) return 1;
    }
    return 0;
}

/* --- what happens before an answer --- */

static void take(long long us) {
    static __thread int exact;
    struct timespec start, now, rest = {us / 1000000, us % 1000000 * 1000};
    if (!exact++) prctl(PR_SET_TIMERSLACK, 1UL);
    if (us >= 30) { while (nanosleep(&rest, &rest)) {} return; }
    clock_gettime(CLOCK_MONOTONIC, &start); /* so short a sleep would take longer */
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000LL + (now.tv_nsec - start.tv_nsec) / 1000 < us);
}

/* Does what VALUE says instead of answering: an error code, OK if it is an answer after all. */
static int misbehave(const char *value) {
    if (!strncmp(value, "error ", 6)) return atoi(value + 6);
    if (!strcmp(value, "hang")) for (;;) pause();
    if (!strcmp(value, "crash")) { signal(SIGSEGV, SIG_DFL); raise(SIGSEGV); }
    if (!strncmp(value, "exit ", 5)) _exit(atoi(value + 5));
    if (!strncmp(value, "write ", 6)) {
        int fd = open(value + 6, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd >= 0) { if (write(fd, "x", 1)) {} close(fd); }
    }
    return OK;
}

/* Whether the call named KEY is made for the first time in this process. */
static int first_time(const char *key) {
    static char *seen[SLOTS];
    unsigned h = 5381;
    for (const char *c = key; *c; c++) h = h * 33 ^ (unsigned char)*c;
    pthread_mutex_lock(&lock);
    for (h %= SLOTS; seen[h] && strcmp(seen[h], key); h = (h + 1) % SLOTS) {}
    int first = !seen[h];
    if (first) seen[h] = strdup(key);
    pthread_mutex_unlock(&lock);
    return first;
}

/* Takes the time that this call costs. */
static void cost(const char *name, device d, const char *arguments) {
    char key[KEY], us[VALUE];
    snprintf(key, sizeof key, "%s.%s(%s)", d ? d->id : "", name, arguments);
    if (find(d, name, arguments, "@first", us) && first_time(key)) take(atoll(us));
    else if (find(d, name, arguments, "@us", us)) take(atoll(us));
}

static void note(const char *name, device d) {
    const char *path = getenv("FAKE_NVML_LOG");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd < 0) return;
    dprintf(fd, "%d %s %s\n", getpid(), name, d ? d->id : "-");
    close(fd);
}

/* Everything that may keep a call from its answer; VALUE is the answer's text, "" if there is none. */
static int enter(const char *name, device d, const char *arguments, char *value) {
    char key[KEY], parent[16], other[VALUE];
    int rc;
    note(name, d);
    cost(name, d, arguments);
    if (get("*", other) && (rc = misbehave(other))) return rc;
    if (d) {
        snprintf(parent, sizeof parent, "%.*s", (int)strcspn(d->id, "m"), d->id);
        snprintf(key, sizeof key, "%s.*", parent);
        if (get(key, other) && (rc = misbehave(other))) return rc;
    }
    if (strncmp(name, "nvmlInit", 8)) {
        if (!initialised) return UNINITIALIZED;
        if (number("generation", 0) != born) return (int)number("stale", UNINITIALIZED);
    }
    *value = 0;
    return find(d, name, arguments, "", value) ? misbehave(value) : OK;
}

/* --- answers --- */

/* The next word of *TEXT into WORD, without its quotes; 0 at the end. */
static int next_word(const char **text, char *word) {
    while (**text == ' ') ++*text;
    if (!**text) return 0;
    int quoted = **text == '"';
    *text += quoted;
    size_t n = strcspn(*text, quoted ? "\"" : " ");
    snprintf(word, VALUE, "%.*s", (int)n, *text);
    *text += n + (quoted && (*text)[n]);
    return 1;
}

static uint64_t as_number(const char *word) {
    return *word == '-' ? (uint64_t)strtoll(word, NULL, 0) : strtoull(word, NULL, 0);
}

/* One member of TYPE at OUT, from the next word; returns where the next member may begin. Nothing is
 * written behind LIMIT. */
static char *put(const char *type, char *out, const char *limit, const char **text) {
    char word[VALUE];
    int letter = *type, wide = letter == 'c' || letter == 'b';
    size_t size = wide ? (size_t)atoi(type + 1) : !strcmp(type, "u64") ? 8 : !strcmp(type, "u8") ? 1 : 4;
    size_t align = wide ? 1 : size;
    out = (char *)(((uintptr_t)out + align - 1) / align * align);
    if (!strcmp(type, "keep") || out + size > limit || !next_word(text, word)) return out + size;
    uint64_t n = as_number(word);
    if (letter == 'c') snprintf(out, size, "%s", word);
    else if (letter == 'b') for (size_t i = 0; i < size && sscanf(word + 2 * i, "%2hhx", (unsigned char *)out + i) == 1; i++) {}
    else memcpy(out, &n, size); /* little endian, as every machine with this library is */
    return out + size;
}

/* The members "{a,b,c}" of one structure; returns its end, padded as C pads it. A structure that
 * begins with its version (keep) is only as long as that version says in its lower 24 bits. */
static char *put_structure(const char *layout, char *out, const char **text) {
    char members[256], *rest, *type;
    const char *limit = strncmp(layout, "{keep", 5) ? out + VALUE : out + (*(uint32_t *)out & 0xffffff);
    snprintf(members, sizeof members, "%.*s", (int)strcspn(layout + 1, "}"), layout + 1);
    int eight = strstr(members, "u64") != NULL;
    for (type = strtok_r(members, ",", &rest); type; type = strtok_r(NULL, ",", &rest)) out = put(type, out, limit, text);
    return (char *)(((uintptr_t)out + (eight ? 7 : 0)) & ~(uintptr_t)(eight ? 7 : 0));
}

static int put_list(const char *layout, uint32_t *count, char *out, const char *text) {
    char words[VALUE], item[256];
    uint32_t capacity = *count, members = 1, n = 0;
    for (const char *c = layout; *c && *c != '}'; c++) members += *c == ',';
    const char *scan = text;
    while (strcmp(text, "-") && next_word(&scan, words)) n++;
    *count = n / members;
    snprintf(item, sizeof item, "%s", layout);
    if (*count && (!out || capacity < *count)) return INSUFFICIENT_SIZE;
    for (uint32_t i = 0; i < *count; i++) out = put_structure(item, out, &text);
    return OK;
}

static int put_string(char *out, size_t size, const char **text) {
    char word[VALUE];
    if (!next_word(text, word)) *word = 0;
    if (strlen(word) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, word);
    return OK;
}

/* Answers a function of functions.txt: SIGNATURE says what its arguments are. */
int serve(const char *name, const char *signature, const uintptr_t *a) {
    char value[VALUE], words[512], arguments[64] = "", *rest, *kind;
    const char *text = value;
    device d = NULL;
    int at = 0, rc, answering = 0;
    snprintf(words, sizeof words, "%s", signature);
    for (kind = strtok_r(words, " ", &rest); kind; kind = strtok_r(NULL, " ", &rest)) {
        size_t n = strlen(arguments);
        const char *comma = n ? "," : "";
        if (!strcmp(kind, "dev")) { if (!(d = (device)a[at++])) return INVALID_ARGUMENT; continue; }
        if (!strcmp(kind, "peer")) { snprintf(arguments + n, 64 - n, "%s%s", comma, ((device)a[at++])->id); continue; }
        if (!strcmp(kind, "int")) { snprintf(arguments + n, 64 - n, "%s%d", comma, (int)a[at++]); continue; }
        if (!answering++) {
            if ((rc = enter(name, d, arguments, value))) return rc;
            if (!*value) return NOT_SUPPORTED;
        }
        char *out = (char *)a[at++];
        if (!strcmp(kind, "str")) rc = put_string(out, a[at++] & 0xffffffff, &text);
        else if (!strncmp(kind, "str:", 4)) rc = put_string(out, (size_t)atoi(kind + 4), &text);
        else if (!strncmp(kind, "list", 4)) { rc = put_list(kind + 4, (uint32_t *)out, (char *)a[at], text); at++; }
        else if (*kind == '{') { put_structure(kind, out, &text); rc = OK; }
        else { put(kind, out, out + 8, &text); rc = OK; }
        if (rc) return rc;
    }
    return OK;
}

/* --- the library, its GPUs and their handles --- */

static device intern(const char *id) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < DEVICES - 1 && devices[i].id[0] && strcmp(devices[i].id, id)) i++;
    if (!devices[i].id[0]) snprintf(devices[i].id, sizeof devices[i].id, "%s", id);
    pthread_mutex_unlock(&lock);
    return &devices[i];
}

/* The GPU at INDEX, NULL behind the last one; *COUNT is how many there are: none for who initialised
 * without attaching (seen with driver 580). */
static device gpu_at(unsigned index, unsigned *count) {
    char value[VALUE] = "", word[VALUE];
    const char *text = value;
    device found = NULL;
    if (!(flags & NO_ATTACH)) get("gpus", value);
    for (*count = 0; next_word(&text, word); ++*count)
        if (*count == index) found = intern(word);
    return found;
}

static int attach(const char *name, device d, device *out) {
    char value[VALUE];
    int rc = enter(name, d, "", value);
    if (!rc) *out = d;
    return rc;
}

/* The GPU whose FUNCTION answers WANTED as its LAST word, in any case of letters. */
static int handle_by(const char *name, const char *function, int last, const char *wanted, device *out) {
    char value[VALUE], word[VALUE] = "";
    unsigned count = 1;
    device d;
    for (unsigned i = 0; i < count; i++) {
        if (!(d = gpu_at(i, &count)) || !find(d, function, "", "", value)) continue;
        const char *text = value;
        for (int n = 0; next_word(&text, word) && last && n < 6; n++) {}
        if (!strcasecmp(word, wanted)) return attach(name, d, out);
    }
    return enter(name, NULL, "", value) ?: NOT_FOUND;
}

int nvmlInitWithFlags(unsigned given) {
    char value[VALUE], arguments[16];
    snprintf(arguments, sizeof arguments, "%u", given);
    int rc = enter("nvmlInitWithFlags", NULL, arguments, value);
    if (rc) return rc;
    born = number("generation", 0);
    flags = given;
    initialised++;
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { note("nvmlShutdown", NULL); return initialised ? (initialised--, OK) : UNINITIALIZED; }
const char *nvmlErrorString(int rc) { return rc ? "An error of the fake library" : "Success"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    char value[VALUE];
    int rc = enter("nvmlDeviceGetCount_v2", NULL, "", value);
    if (!rc) gpu_at(0, count);
    return rc;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out) {
    unsigned count;
    device d = gpu_at(index, &count);
    char value[VALUE];
    if (!d) return enter("nvmlDeviceGetHandleByIndex_v2", NULL, "", value) ?: INVALID_ARGUMENT;
    return attach("nvmlDeviceGetHandleByIndex_v2", d, out);
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
    return handle_by("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUUID", 0, uuid, out);
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, device *out) {
    return handle_by("nvmlDeviceGetHandleByPciBusId_v2", "nvmlDeviceGetPciInfo_v3", 1, pci, out);
}
int nvmlDeviceGetIndex(device d, unsigned *out) {
    char value[VALUE];
    unsigned count = 1;
    int rc = enter("nvmlDeviceGetIndex", d, "", value);
    for (unsigned i = 0; !rc && i < count; i++)
        if (gpu_at(i, &count) == d) return *out = i, OK;
    return rc ?: NOT_FOUND;
}
int nvmlDeviceGetMigDeviceHandleByIndex(device d, unsigned index, device *out) {
    char id[32], value[VALUE];
    int rc = enter("nvmlDeviceGetMigDeviceHandleByIndex", d, "", value);
    if (rc) return rc;
    snprintf(id, sizeof id, "%sm%u", d->id, index);
    device child = intern(id);
    if (!find(child, "nvmlDeviceGetUUID", "", "", value)) return NOT_FOUND;
    return *out = child, OK;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device d, device *out) {
    char id[16], value[VALUE];
    snprintf(id, sizeof id, "%.*s", (int)strcspn(d->id, "m"), d->id);
    int rc = enter("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", d, "", value);
    if (!rc) *out = intern(id);
    return rc;
}
int nvmlDeviceIsMigDeviceHandle(device d, unsigned *out) { return *out = strchr(d->id, 'm') != NULL, OK; }

int nvmlDeviceGetFieldValues(device d, int count, field_value *values) {
    char value[VALUE], arguments[32], word[VALUE];
    int rc = enter("nvmlDeviceGetFieldValues", d, "", value), slow = number("field@us", 0) != 0;
    for (int i = 0; !rc && i < count; i++) {
        field_value *f = &values[i];
        const char *text = value;
        snprintf(arguments, sizeof arguments, "%u,%u", f->field, f->scope);
        int found = find(d, "field", arguments, "", value);
        snprintf(arguments, sizeof arguments, "%u", f->field);
        found = found || find(d, "field", arguments, "", value);
        if (found && (f->rc = (uint32_t)misbehave(value))) continue;
        f->rc = INVALID_ARGUMENT;
        if (!found) continue;
        if (next_word(&text, word)) f->rc = (uint32_t)as_number(word);
        if (next_word(&text, word)) f->type = (uint32_t)as_number(word);
        if (next_word(&text, word)) {
            double real = strtod(word, NULL);
            f->value = as_number(word);
            if (f->type == 0) memcpy(&f->value, &real, sizeof real);
        }
        if (next_word(&text, word)) f->latency = (int64_t)as_number(word);
        if (slow) take(f->latency);
        f->timestamp = (int64_t)time(NULL) * 1000000;
    }
    return rc;
}

/* --- events --- */

int nvmlEventSetCreate(event_set **out) {
    char value[VALUE];
    int rc = enter("nvmlEventSetCreate", NULL, "", value);
    if (!rc) *out = calloc(1, sizeof **out);
    return rc;
}
int nvmlEventSetFree(event_set *set) { note("nvmlEventSetFree", NULL); free(set); return OK; }
int nvmlDeviceRegisterEvents(device d, uint64_t types, event_set *set) {
    char value[VALUE];
    int rc = enter("nvmlDeviceRegisterEvents", d, "", value);
    if (!rc) set->mask[d - devices] |= types;
    return rc;
}
int nvmlEventSetWait_v2(event_set *set, event_data *out, unsigned timeout_ms) {
    char value[VALUE], key[KEY], word[VALUE];
    int rc = enter("nvmlEventSetWait_v2", NULL, "", value);
    for (unsigned waited = 0; !rc; waited += 5) {
        snprintf(key, sizeof key, "event(%lld)", next_event);
        if (get(key, value)) {
            const char *text = value;
            next_event++;
            memset(out, 0, sizeof *out);
            out->gi = out->ci = ~0u;
            if (next_word(&text, word)) out->device = intern(word);
            if (next_word(&text, word)) out->type = as_number(word);
            if (next_word(&text, word)) out->data = as_number(word);
            if (next_word(&text, word)) out->gi = (uint32_t)as_number(word);
            if (next_word(&text, word)) out->ci = (uint32_t)as_number(word);
            if (set->mask[out->device - devices] & out->type) return OK;
            continue;
        }
        if (waited >= timeout_ms) return TIMEOUT;
        take(5000);
    }
    return rc;
}
