# TAB completion of trpo-train, trpo-eval, trpo-export and trpo-report in fish.
function __trpo_train
    set -l command (commandline -opc)[1]
    $command --complete (commandline -cp | string collect) 2>/dev/null
end
function __trpo_options
    set -l command (commandline -opc)[1]
    $command --help 2>/dev/null | string match -arg -- '(--[a-z][a-z-]*)' | sort -u
end
complete -c trpo-train -f -a '(__trpo_train)'
for command in trpo-eval trpo-export trpo-report
    complete -c $command -n 'string match -q -- "-*" (commandline -ct)' -a '(__trpo_options)'
end
